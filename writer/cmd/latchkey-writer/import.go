package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

const (
	// importBatch is how many rows go to the writer at a time: what it commits in a fraction of a second.
	importBatch = 1000
	// importShownEvery is how often the import says how far it is.
	importShownEvery = 2 * time.Second
	// importNamed is how many rows that are not understood are named: they mostly have one fault in common.
	importNamed = 20
	// maxImportRowBytes is how long a row may be: a quote that is not closed makes one of all that follows.
	maxImportRowBytes = 1 << 20
)

var errImportRow = fmt.Errorf("a row of more than %d bytes: a quote may be open", maxImportRowBytes)

func importCommand() *cobra.Command {
	var env, kind string
	cmd := &cobra.Command{
		Use:   "import PROVIDER FILE",
		Short: "Record a provider's export, as if its rows had been messages.",
		Long: "Record a provider's export through the writer that runs here, packed with gzip or not. Of revenuecat: a scheduled data export (CSV with commas) or\n" +
			"a customer list (CSV with semicolons), which names no transactions: its customers are asked about, which takes a key of the API. Of adapty: the export of\n" +
			"events (CSV with commas). FILE.progress keeps how far it came, so that an import that was interrupted goes on there. Rows that were recorded before change nothing.\n" +
			"The first rows that are not understood are named, by their line in the file and the columns at fault. A quote that is open or stands within a field ends the import:\n" +
			"it could hide the rows after it.",
		Example: "  latchkey-writer import revenuecat transactions.csv.gz --config writer.yaml --env production",
		Args:    cobra.ExactArgs(2),
	}
	connect := operator(cmd)
	cmd.Flags().StringVar(&env, "env", string(entitlement.Production), "production or sandbox")
	cmd.Flags().StringVar(&kind, "kind", "", "of revenuecat scheduled (data export, the default) or customers (customer list); of adapty events")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from := entitlement.Provider(args[0])
		forms := exports[from]
		if forms == nil {
			return fmt.Errorf("%w: %q has no export that is known: want revenuecat or adapty", errUsage, args[0])
		}
		if kind == "" {
			kind = forms[0].kind
		}
		at := slices.IndexFunc(forms, func(f exportForm) bool { return f.kind == kind })
		if at < 0 {
			return fmt.Errorf("%w: --kind %q is no export of %s", errUsage, kind, from)
		}
		if err := checkEnvironment(env); err != nil {
			return err
		}
		o, err := connect()
		if err != nil {
			return err
		}
		return runImport(cmd.Context(), cmd.ErrOrStderr(), o, importJob{from: from, path: args[1], kind: kind, comma: forms[at].comma, env: entitlement.Environment(env)})
	}
	return cmd
}

// exportForm is a form of export.
type exportForm struct {
	kind  string
	comma rune
}

// exports are the forms that are known of each provider, the usual one first.
var exports = map[entitlement.Provider][]exportForm{
	entitlement.RevenueCat: {{"scheduled", ','}, {"customers", ';'}},
	entitlement.Adapty:     {{"events", ','}},
}

// importJob is one file to import.
type importJob struct {
	from       entitlement.Provider
	path, kind string
	comma      rune
	env        entitlement.Environment
}

// importProgress is how far a file was imported. It is that file's while it has the same length and time, and is read in the same way.
type importProgress struct {
	Size        int64                   `json:"size"`
	ModTime     time.Time               `json:"mod_time"`
	Environment entitlement.Environment `json:"environment"`
	Kind        string                  `json:"kind"`
	Rows        int                     `json:"rows"`
	Result      writer.ImportResult     `json:"result"`
}

func (p *importProgress) isFor(q importProgress) bool {
	return p.Size == q.Size && p.ModTime.Equal(q.ModTime) && p.Environment == q.Environment && p.Kind == q.Kind
}

// runImport reads a file to its end and hands it over batch by batch.
func runImport(ctx context.Context, log io.Writer, o *writer.Operator, job importJob) error {
	file, err := os.Open(job.path)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	done := importProgress{Size: stat.Size(), ModTime: stat.ModTime(), Environment: job.env, Kind: job.kind}
	if before, err := readProgress(job.path); err != nil {
		return err
	} else if before.isFor(done) {
		done = before
		fmt.Fprintf(log, "%d rows were imported before\n", done.Rows)
	}
	rows, header, err := openRows(file, job.comma)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is empty: want a line with the names of the columns", job.path)
	} else if err != nil {
		return fmt.Errorf("%s: %w", job.path, err)
	}
	began, shown, skipped, named := time.Now(), time.Now(), done.Rows, 0
	for n := 0; ; {
		batch := writer.ImportBatch{Kind: job.kind, Header: header}
		var lines []int // where its rows begin
		odd := 0        // rows with other columns than the header
		for len(batch.Rows) < importBatch && err == nil {
			var row []string
			row, err = rows.Read()
			if err != nil && !errors.Is(err, csv.ErrFieldCount) {
				break
			}
			if n++; n <= skipped {
				err = nil
				continue
			}
			line, _ := rows.FieldPos(0)
			if err == nil {
				batch.Rows, lines = append(batch.Rows, row), append(lines, line)
				continue
			}
			if err, odd, named = nil, odd+1, named+1; named <= importNamed {
				fmt.Fprintf(log, "line %d is not understood: it has %d columns, and the header has %d\n", line, len(row), len(header))
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", job.path, err)
		}
		if len(batch.Rows) > 0 || odd > 0 || n == 0 { // without rows the columns are looked at
			result, err := o.Import(ctx, job.from, job.env, batch)
			if err != nil {
				return fmt.Errorf("row %d: %w", done.Rows+1, err)
			}
			for _, fault := range result.Faults {
				if named++; named <= importNamed {
					fmt.Fprintf(log, "line %d is not understood: %s\n", lines[fault.Row], strings.Join(fault.Columns, ", "))
				}
			}
			done.Rows += len(batch.Rows) + odd
			done.Result.Add(result)
			done.Result.Unreadable += odd
			if err := writeProgress(job.path, done); err != nil {
				return err
			}
		}
		if end := errors.Is(err, io.EOF); end || time.Since(shown) > importShownEvery {
			shown = time.Now()
			r := done.Result
			fmt.Fprintf(log, "%d rows, %.0f a second: %d recorded, %d known, %d passed over, %d not understood, %d refused\n", done.Rows,
				float64(done.Rows-skipped)/time.Since(began).Seconds(), r.Recorded, r.Duplicates, r.Skipped, r.Unreadable, r.Refused)
			if end {
				return nil
			}
		}
	}
}

// importRows reads the rows of a file, none of which may be longer than maxImportRowBytes.
type importRows struct {
	*csv.Reader
	limited *rowLimit
}

// Read returns a row, with csv.ErrFieldCount where it has other columns than the header.
func (r *importRows) Read() ([]string, error) {
	row, err := r.Reader.Read()
	r.limited.left = maxImportRowBytes
	return row, err
}

// rowLimit fails when more than what is left was read.
type rowLimit struct {
	from io.Reader
	left int
}

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errImportRow
	}
	n, err := l.from.Read(p)
	l.left -= n
	return n, err
}

// openRows returns a reader of the rows under the header. What is packed with gzip is unpacked.
func openRows(file io.Reader, comma rune) (*importRows, []string, error) {
	in := bufio.NewReaderSize(file, 1<<20)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		in = bufio.NewReaderSize(unpacked, 1<<20)
	}
	limited := &rowLimit{in, maxImportRowBytes}
	rows := &importRows{csv.NewReader(bufio.NewReader(limited)), limited}
	rows.Comma = comma
	header, err := rows.Read()
	return rows, header, err
}

func progressPath(path string) string { return path + ".progress" }

func readProgress(path string) (p importProgress, err error) {
	b, err := os.ReadFile(progressPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return p, fmt.Errorf("%s: %w: without it the import begins anew", progressPath(path), err)
	}
	return p, nil
}

// writeProgress replaces the file by rename: a reader sees the old one or the new one.
func writeProgress(path string, p importProgress) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	temporary := progressPath(path) + ".tmp"
	if err := os.WriteFile(temporary, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, progressPath(path))
}
