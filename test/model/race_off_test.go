//go:build !race

package model

const slower = 1
