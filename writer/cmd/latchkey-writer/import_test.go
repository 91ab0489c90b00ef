package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// importIsRepeatable imports a packed export of 2,500 rows twice, the second time without the memory of the first: nothing is doubled.
func importIsRepeatable(t *testing.T, file string) {
	t.Helper()
	var text bytes.Buffer
	packed := gzip.NewWriter(&text)
	fmt.Fprintln(packed, "rc_original_app_user_id,product_identifier,start_time,end_time,store,is_sandbox,store_transaction_id,original_store_transaction_id,updated_at,ownership_type")
	for n := range 2500 {
		fmt.Fprintf(packed, "user-%d,pro,2026-09-01 00:00:00,2026-10-01 00:00:00,app_store,true,%d,%d,2026-09-01 00:01:00,PURCHASED\n", n, 5000+n, 5000+n)
	}
	fmt.Fprintln(packed, "user-x,pro,2026-09-01 00:00:00,2026-10-01 00:00:00,app_store,false,1,1,2026-09-01 00:01:00,PURCHASED")
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "export.csv.gz")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2501 rows, ", "2500 recorded, 0 known, 1 passed over", "0 recorded, 2500 known, 1 passed over"} {
		_, errOut, code := tool(t.Context(), "import", "revenuecat", path, "--config", file, "--env", "sandbox")
		if code != 0 || !strings.Contains(errOut, want) {
			t.Fatalf("import = %d %s, want %q", code, errOut, want)
		}
		if strings.HasPrefix(want, "2500") {
			if !strings.Contains(errOut, "2501 rows were imported before") {
				t.Errorf("an import that was done before begins anew: %s", errOut)
			}
			if err := os.Remove(path + ".progress"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, errOut, code := tool(t.Context(), "import", "revenuecat", path, "--config", file, "--env", "sandbox", "--kind", "customers"); code != 1 || !strings.Contains(errOut, "is missing") {
		t.Errorf("a file of another form = %d %s", code, errOut)
	}
	if _, errOut, code := tool(t.Context(), "import", "adapty", path, "--config", file, "--env", "sandbox"); code != 1 || !strings.Contains(errOut, "is missing") {
		t.Errorf("another provider's file = %d %s", code, errOut)
	}
	events := filepath.Join(t.TempDir(), "events.csv")
	if err := os.WriteFile(events, []byte("profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,customer_user_id,store,product_id\n"+
		"p1,subscription_started,2026-09-01 00:00:00,71,71,2026-10-01 00:00:00,Sandbox,,app_store,pro\np1,trial_started,2026-09-01 00:00:00,72,72,2026-10-01 00:00:00,Production,,app_store,pro\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := tool(t.Context(), "import", "adapty", events, "--config", file, "--env", "sandbox"); code != 0 || !strings.Contains(errOut, "1 recorded, 0 known, 1 passed over") {
		t.Errorf("import adapty = %d %s", code, errOut)
	}
	broken := filepath.Join(t.TempDir(), "broken.csv")
	for _, tt := range []struct {
		name, text, progress string
		code                 int
		want                 string
	}{
		{"lines that are not understood", "profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,store,product_id\n" +
			"\"p\n1\",subscription_started,whenever,81,81,never,Sandbox,app_store,pro\np2,subscription_started,,82,82,,Sandbox,app_store,pro\n", "", 0,
			"line 2 is not understood: event_datetime\nline 4 is not understood: event_datetime\n2 rows"},
		{"rows with other columns than the header", "profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,store,product_id\n" +
			"p1,subscription_started\np2,subscription_started,2026-09-01 00:00:00,82,82,2026-10-01 00:00:00,Sandbox,app_store,pro\np3,subscription_started,2026-09-01 00:00:00,83,83,2026-10-01 00:00:00,Sandbox,app_store,pro,x\n", "", 0,
			"line 2 is not understood: it has 2 columns, and the header has 9\nline 4 is not understood: it has 10 columns, and the header has 9\n3 rows"},
		{"a quote that hides rows", "profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,store,product_id\n" +
			"p1,subscription_started,2026-09-01 00:00:00,81,81,2026-10-01 00:00:00,Sandbox,app_store,\"pro\" month\np2,subscription_started,2026-09-01 00:00:00,82,82,2026-10-01 00:00:00,Sandbox,app_store,pro\n", "", 1,
			"on line 2"},
		{"a quote that is never closed", "profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,store,product_id\n\"" +
			strings.Repeat("p1,subscription_started,2026-09-01 00:00:00,81,81,2026-10-01 00:00:00,Sandbox,app_store,pro\n", 13_000), "", 1, "a quote may be open"},
		{"an empty file", "", "", 1, "is empty"},
		{"columns without rows", "a,b\n", "", 1, "the column profile_id is missing"},
		{"a memory that is damaged", "a,b\n", "{", 1, ".progress: unexpected end"},
	} {
		if err := errors.Join(os.WriteFile(broken, []byte(tt.text), 0o600), os.RemoveAll(broken+".progress")); err != nil {
			t.Fatal(err)
		}
		if tt.progress != "" {
			if err := os.WriteFile(broken+".progress", []byte(tt.progress), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, errOut, code := tool(t.Context(), "import", "adapty", broken, "--config", file, "--env", "sandbox"); code != tt.code || !strings.Contains(errOut, tt.want) {
			t.Errorf("%s = %d %s, want %d %q", tt.name, code, errOut, tt.code, tt.want)
		}
	}
	for _, args := range [][]string{{"import", "iaptic", path}, {"import", "revenuecat", path, "--kind", "x"}, {"import", "adapty", path, "--kind", "scheduled"}} {
		if _, errOut, code := tool(t.Context(), append(args, "--config", file)...); code != 2 {
			t.Errorf("%q = %d %s, want wrong usage", args, code, errOut)
		}
	}
}

// revenueCatTest sends what webhook-test prints for RevenueCat.
func revenueCatTest(t *testing.T, file string) {
	t.Helper()
	out, errOut, code := tool(t.Context(), "webhook-test", "revenuecat", "--config", file)
	quoted := strings.Split(out, "'")
	if code != 0 || len(quoted) != 11 {
		t.Fatalf("webhook-test = %d %s %s", code, out, errOut)
	}
	req, err := http.NewRequest("POST", quoted[1], strings.NewReader(quoted[9]))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{quoted[5], quoted[7]} {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("the test message = %d", res.StatusCode)
	}
}
