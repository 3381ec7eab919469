// Package idle measures what watching costs while nothing moves.
package idle
