package daemon

import "testing"

func TestHeapGrowth(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 100}, {1 << 20, 100}, {8 << 20, 100}, {16 << 20, 50}, {24 << 20, 33}, {32 << 20, 25}, {1 << 40, 25}} {
		if got := heapGrowth(c.live); got != c.want {
			t.Errorf("with %d bytes alive it may grow by %d %%, want %d %%", c.live, got, c.want)
		}
	}
}
