//go:build !linux

package load

import "context"

// runOpen puts the load of a schedule.
func runOpen(ctx context.Context, config Config) (Result, error) { return runEach(ctx, config) }
