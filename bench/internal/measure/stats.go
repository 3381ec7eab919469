package measure

import (
	"cmp"
	"math"
	"slices"
)

// Median is the value in the middle; of an even number of them, the lower of the two.
func Median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

// Quartiles give the values a quarter and three quarters up.
func Quartiles[T cmp.Ordered](values []T) (low, high T) {
	sorted := slices.Sorted(slices.Values(values))
	last := len(sorted) - 1
	return sorted[last/4], sorted[last-last/4]
}

// Exponent is the e of the y = c·xᵉ that fits best: the slope of the least squares line through the logarithms. 1 is
// growth in proportion. All values must be above 0.
func Exponent(x, y []float64) float64 {
	n := float64(len(x))
	var sx, sy, sxx, sxy float64
	for i := range x {
		lx, ly := math.Log(x[i]), math.Log(y[i])
		sx, sy, sxx, sxy = sx+lx, sy+ly, sxx+lx*lx, sxy+lx*ly
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}
