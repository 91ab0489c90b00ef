package main

import (
	"strings"
	"testing"
)

// I20, and more: what the providers tell leads to one truth, which is the simulator's own, in any order, with repeats and losses. `make sim` plays more.
func TestHistoriesOfAllProvidersAgreeWithTheOracle(t *testing.T) {
	const histories = 250
	var out strings.Builder
	failed, err := playAll(t.Context(), &out, 1, histories, 2, 3)
	if err != nil || failed > 0 {
		t.Errorf("%d of %d histories are wrong, %v\n%s", failed, histories, err, out.String())
	}
}
