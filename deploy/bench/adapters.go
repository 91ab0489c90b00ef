package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// appleGoal is how long a notification of the App Store may take, with three signatures and a chain of certificates each, in milliseconds.
const appleGoal = 1

// adapterBenchmarks are the providers by the benchmark that verifies and parses one of their messages.
var adapterBenchmarks = map[string]string{
	"Adapty": "adapty", "AppleWebhook": "apple", "WebhookGoogle": "google", "Iaptic": "iaptic", "RevenueCatWebhook": "revenuecat", "Webhook": "stripe", "Web2Wave": "web2wave",
}

var benchmarkLine = regexp.MustCompile(`(?m)^Benchmark(\w+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op`)

// takeAdapters: verify, parse and encode one message of each provider. The adapters are internal to the writer, so their own benchmarks run.
func takeAdapters(ctx context.Context, _ config) ([]figure, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "300ms", "-count", strconv.Itoa(rounds), "./writer/internal/provider").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("benchmarks: %w\n%s", err, out)
	}
	return adapterFigures(string(out))
}

// adapterFigures reads what the benchmarks printed. It is an error when a provider is missing.
func adapterFigures(out string) ([]figure, error) {
	took := map[string][]float64{}
	for _, line := range benchmarkLine.FindAllStringSubmatch(out, -1) {
		nanoseconds, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			return nil, fmt.Errorf("benchmark %s: %w", line[1], err)
		}
		took[line[1]] = append(took[line[1]], nanoseconds/1e6)
	}
	var figures []figure
	var missing error
	for benchmark, provider := range adapterBenchmarks {
		values := took[benchmark]
		if len(values) == 0 {
			missing = errors.Join(missing, fmt.Errorf("no benchmark of %s", provider))
			continue
		}
		least, middle, greatest := spread(values)
		f := figure{Name: "adapter_" + provider, Value: middle, Unit: "ms", Min: least, Max: greatest, Runs: len(values)}
		if provider == "apple" {
			f.Goal = goal(appleGoal)
		}
		figures = append(figures, f)
	}
	sortByName(figures)
	return figures, missing
}
