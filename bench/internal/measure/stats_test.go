package measure

import (
	"math"
	"testing"
)

func TestExponent(t *testing.T) {
	x := []float64{100, 1000, 10_000, 100_000}
	for _, want := range []float64{0, 0.5, 1, 2} {
		y := make([]float64, len(x))
		for i := range x {
			y[i] = 7 * math.Pow(x[i], want)
		}
		if got := Exponent(x, y); math.Abs(got-want) > 1e-9 {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := Median([]int{5, 1, 4, 2, 3}); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
	if low, high := Quartiles([]int{5, 1, 4, 2, 3}); low != 2 || high != 4 {
		t.Errorf("got %d and %d, want 2 and 4", low, high)
	}
}
