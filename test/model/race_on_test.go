//go:build race

package model

// slower is how many times longer a step takes with the race detector.
const slower = 20
