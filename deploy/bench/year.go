package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

const (
	// yearUsers is how many customers live through the year, and yearGoal how many seconds that may take.
	yearUsers = 10_000
	yearGoal  = 600
)

var yearLine = regexp.MustCompile(`(?m)^year: (\d+) users, .* (\d+) wrong, (\S+)$`)

// takeYear: a crowd lives through a year of virtual time before a real writer and a real edge. It is `make sim YEAR=10000`.
func takeYear(ctx context.Context, _ config) ([]figure, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "run", "./deploy/truth", "-users", strconv.Itoa(yearUsers))
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
	err := cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) { // a year with mistakes is told as a figure
		return nil, err
	}
	figures, err := yearFigures(out.String())
	if err != nil {
		return nil, err
	}
	used := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() // of the command and what it waited for
	return append(figures, figure{Name: figures[0].Name + "_cpu", Value: used, Unit: "s of CPU", Min: used, Max: used, Runs: 1}), nil
}

// yearFigures reads the last line of a year.
func yearFigures(out string) ([]figure, error) {
	line := yearLine.FindStringSubmatch(out)
	if line == nil {
		return nil, fmt.Errorf("the year did not end: %s", out)
	}
	wrong, err := strconv.ParseFloat(line[2], 64)
	if err != nil {
		return nil, err
	}
	took, err := time.ParseDuration(line[3])
	if err != nil {
		return nil, err
	}
	seconds := took.Seconds()
	return []figure{
		{Name: "year_" + line[1], Value: seconds, Unit: "s", Goal: goal(yearGoal), Min: seconds, Max: seconds, Runs: 1},
		{Name: "year_" + line[1] + "_wrong", Value: wrong, Unit: "answers", Goal: goal(1), Min: wrong, Max: wrong, Runs: 1},
	}, nil
}
