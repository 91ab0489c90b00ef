package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// How a replica that is built anew is measured, while its edge goes on answering.
const (
	rebootstrapGoal   = 20 // seconds
	rebootstrapRuns   = 3
	rebootstrapWithin = 5 * time.Minute
	rebootstrapLook   = 10 * time.Millisecond // how often the edge is asked how far it is
	readers           = 2
	readEvery         = 5 * time.Millisecond // of one reader
)

// takeRebootstrap: from a new epoch at the writer, which no change can lead to, until the edge serves it, with many accounts. Meanwhile checks go
// on, and each must be answered and signed. The disk is what the edge's folder takes, at rest and at most.
func takeRebootstrap(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge")}
	writer, sessions, stop, err := e.serve(ctx, config.accounts, 1)
	if err != nil {
		return nil, err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, fillWithin)
	defer cancel()
	session := sessions[0]
	var took, p99s, failed, rest, most []float64
	for range rebootstrapRuns {
		atRest, err := e.diskBytes()
		if err != nil {
			return nil, err
		}
		reading, end := context.WithCancel(ctx)
		read := make(chan reads, 1)
		go func() { read <- e.read(reading, session) }()
		began := time.Now()
		writer.RaiseEpoch()
		peak, err := e.reaches(ctx, writer.Position().Epoch)
		took = append(took, time.Since(began).Seconds())
		end()
		r := <-read
		if err != nil {
			return nil, errors.Join(err, r.err)
		}
		if r.err != nil {
			fmt.Fprintf(os.Stderr, "  %d of %d checks failed: %v\n", r.failed, len(r.took)+r.failed, r.err)
		}
		slices.Sort(r.took)
		p99s, failed = append(p99s, milliseconds(r.took[len(r.took)*99/100])), append(failed, float64(r.failed))
		rest, most = append(rest, float64(atRest)/1e6), append(most, float64(peak)/1e6)
	}
	figures := []figure{
		{Name: "rebootstrap_1m", Unit: "s", Goal: goal(rebootstrapGoal)},
		{Name: "rebootstrap_1m_failed", Unit: "checks not answered", Goal: goal(1)},
		{Name: "rebootstrap_1m_check_p99", Unit: "ms"},
		{Name: "edge_disk_1m", Unit: "MB"},
		{Name: "edge_disk_1m_peak", Unit: "MB"},
	}
	for i, values := range [][]float64{took, failed, p99s, rest, most} {
		f := &figures[i]
		f.Runs = rebootstrapRuns
		f.Min, f.Value, f.Max = spread(values)
	}
	figures[1].Value = figures[1].Max // not one may fail in any run
	return figures, nil
}

// reads is what became of checks.
type reads struct {
	took   []time.Duration
	failed int
	err    error // of one that failed
}

// read sends checks on a schedule until ctx ends.
func (e *loneEdge) read(ctx context.Context, session string) reads {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: readers}}
	var (
		mu   sync.Mutex
		all  reads
		done sync.WaitGroup
	)
	for range readers {
		done.Go(func() {
			ticks := time.NewTicker(readEvery)
			defer ticks.Stop()
			for {
				var scheduled time.Time
				select {
				case <-ctx.Done():
					return
				case scheduled = <-ticks.C:
				}
				err := e.check(client, session)
				mu.Lock()
				if err == nil {
					all.took = append(all.took, time.Since(scheduled))
				} else {
					all.failed, all.err = all.failed+1, err
				}
				mu.Unlock()
			}
		})
	}
	done.Wait()
	return all
}

// check asks once and wants a signed answer.
func (e *loneEdge) check(client *http.Client, session string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+e.listen+"/v1/entitlements", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+session)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"grace_token"`)) || !bytes.Contains(body, []byte(`"pro"`)) {
		return fmt.Errorf("%d %.300s", res.StatusCode, body)
	}
	return nil
}

// reaches returns once the edge serves the epoch, with the most bytes that its folder took meanwhile.
func (e *loneEdge) reaches(ctx context.Context, epoch uint64) (peak int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, rebootstrapWithin)
	defer cancel()
	for {
		var status struct{ Epoch uint64 }
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.listen+"/status", nil)
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		err = json.NewDecoder(res.Body).Decode(&status)
		res.Body.Close()
		if err != nil {
			return 0, err
		}
		bytes, err := e.diskBytes()
		if err != nil {
			return 0, err
		}
		peak = max(peak, bytes)
		if status.Epoch >= epoch {
			return peak, nil
		}
		select {
		case <-time.After(rebootstrapLook):
		case <-ctx.Done():
			return 0, fmt.Errorf("epoch %d not served: %w", epoch, ctx.Err())
		}
	}
}

// diskBytes is what the edge's files take on the disk; bbolt's grow in steps and have holes.
func (e *loneEdge) diskBytes() (sum int64, err error) {
	err = filepath.WalkDir(filepath.Join(e.dir, "e1"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) { // a file of the copy that was just replaced
			return nil
		}
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += stat.Blocks * 512
		}
		return nil
	})
	return sum, err
}
