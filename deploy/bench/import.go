package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// importCustomers is how many customers the export has, with a purchase each.
	importCustomers = 100_000
	// importGoal is how many of them must be recorded in a second at least.
	importGoal = 2_000
)

// importColumns are those of RevenueCat's scheduled export that are read.
var importColumns = []string{"rc_original_app_user_id", "product_identifier", "start_time", "end_time", "store", "is_auto_renewable", "is_sandbox", "store_transaction_id",
	"original_store_transaction_id", "purchased_currency", "price_in_purchased_currency", "entitlement_identifiers", "ownership_type", "custom_subscriber_attributes", "updated_at"}

// takeImport: `latchkey-writer import` of an export with a running subscription for each of many accounts, into one writer. Read again from the
// start, it must change nothing.
func takeImport(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, 1, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	accounts, err := s.accounts(importCustomers)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "export.csv")
	if err := writeExport(file, accounts, time.Now().UTC()); err != nil {
		return nil, err
	}
	began := time.Now()
	first, err := s.importExport(ctx, config, file)
	if err != nil {
		return nil, err
	}
	rate := importCustomers / time.Since(began).Seconds()
	began = time.Now()
	again, err := s.importExport(ctx, config, file)
	if err != nil {
		return nil, err
	}
	known := importCustomers / time.Since(began).Seconds()
	if first.Recorded != importCustomers || again.Duplicates != importCustomers {
		return nil, fmt.Errorf("imported %+v and then %+v, want %d recorded and then as many known", first, again, importCustomers)
	}
	return []figure{
		{Name: "import_revenuecat", Value: rate, Unit: aSecond, Goal: goal(importGoal), Min: rate, Max: rate, Runs: 1},
		{Name: "import_revenuecat_again", Value: known, Unit: aSecond, Min: known, Max: known, Runs: 1},
	}, nil
}

// writeExport writes a scheduled export with a month at the App Store for each account.
func writeExport(path string, accounts []string, now time.Time) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	rows := csv.NewWriter(out)
	if err := rows.Write(importColumns); err != nil {
		return err
	}
	at := func(d time.Duration) string { return now.Add(d).Format(time.DateTime) }
	for n, account := range accounts {
		id := strconv.Itoa(2_000_000_000 + n)
		err := rows.Write([]string{"$RCAnonymousID:" + id, "com.example.pro_monthly", at(-24 * time.Hour), at(29 * 24 * time.Hour), "app_store", "true", "true", id,
			id, "EUR", "9.99", `["pro"]`, "PURCHASED", `{"account_id": {"value": "` + account + `"}}`, at(-24*time.Hour + time.Minute)})
		if err != nil {
			return err
		}
	}
	rows.Flush()
	if err := rows.Error(); err != nil {
		return err
	}
	return out.Flush()
}

// imported is what the tool keeps of an import.
type imported struct {
	Recorded   int `json:"recorded"`
	Duplicates int `json:"duplicates"`
	Skipped    int `json:"skipped"`
	Unreadable int `json:"unreadable"`
	Refused    int `json:"refused"`
}

// importExport runs the operator's tool to its end, and has it forget how far it came.
func (r *running) importExport(ctx context.Context, config config, file string) (imported, error) {
	var progress struct {
		Result imported `json:"result"`
	}
	out, err := exec.CommandContext(ctx, filepath.Join(config.programs, "latchkey-writer"), "import", "revenuecat", file, "--data-dir", r.info.Writers[0].Dir, "--env", "sandbox").CombinedOutput()
	if err != nil {
		return progress.Result, fmt.Errorf("import: %w\n%s", err, out)
	}
	kept := file + ".progress"
	b, err := os.ReadFile(kept)
	if err == nil {
		err = json.Unmarshal(b, &progress)
	}
	if err != nil {
		return progress.Result, fmt.Errorf("import: %w", err)
	}
	return progress.Result, os.Remove(kept)
}
