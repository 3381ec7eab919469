package monitor

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Alarms that are set, moved and cleared in any way ring in order, all of them and once.
func TestAlarms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a alarms
		all := make([]alarm, 20)
		model := map[*alarm]time.Duration{}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			x := &all[rapid.IntRange(0, len(all)-1).Draw(t, "alarm")]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				x.leave()
				delete(model, x)
			case 1:
				next := a.next()
				if next == nil {
					if len(model) > 0 {
						t.Fatal("none is set")
					}
					continue
				}
				if at, ok := model[next]; !ok || at != next.at || a.moment() != at {
					t.Fatalf("the next is at %d, and was set for %d", next.at, at)
				}
				for _, at := range model {
					if at < next.at {
						t.Fatalf("the next is at %d, and one is at %d", next.at, at)
					}
				}
				next.leave()
				delete(model, next)
			default:
				at := time.Duration(rapid.IntRange(0, 10).Draw(t, "at"))
				a.set(x, at)
				model[x] = at
			}
		}
		for i, bells := 0, a.inOrder(nil); i < len(bells); i++ {
			if i > 0 && bells[i-1].at >= bells[i].at {
				t.Fatalf("%d rings before %d", bells[i-1].at, bells[i].at)
			}
			n := 0
			for x := bells[i].first; x != nil; x = x.next {
				n++
			}
			if n != bells[i].n {
				t.Fatalf("a bell counts %d alarms and has %d", bells[i].n, n)
			}
		}
		var rang []time.Duration
		for x := a.next(); x != nil; x = a.next() {
			rang = append(rang, x.at)
			x.leave()
		}
		if len(rang) != len(model) || !slices.IsSorted(rang) || a.moment() != forever || len(a.at) != 0 {
			t.Fatalf("of %d alarms rang %v, and %d moments are left", len(model), rang, len(a.at))
		}
	})
}
