package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var mailedCode = regexp.MustCompile(`[0-9A-Z]{4}(-[0-9A-Z]{4}){4}`)

// codes returns the codes in the mails that came for an address.
func (m *mailbox) codes(address string) (codes []string, err error) {
	files, err := filepath.Glob(filepath.Join(m.dir, "new", "*"))
	for _, path := range files {
		f, openErr := os.Open(path)
		if openErr != nil {
			return nil, openErr
		}
		message, readErr := mail.ReadMessage(bufio.NewReader(f))
		var text []byte
		if readErr == nil && message.Header.Get("X-RcptTo") == address {
			text, readErr = io.ReadAll(quotedprintable.NewReader(message.Body))
		}
		if err = errors.Join(err, readErr, f.Close()); err != nil {
			return nil, err
		}
		if code := mailedCode.Find(text); code != nil {
			codes = append(codes, string(code))
		}
	}
	return codes, err
}

// courseByCode: a package is bought on the web by somebody without an account, who gives the code that comes by mail to a friend. The friend redeems it in the app,
// at an edge, and has the course at every edge until the buyer gets the money back. Nobody else can use it, and neither code nor address is in any file (R67, R68, R70).
func (l *linking) courseByCode() {
	const buyer = "buyer@example.com"
	l.simulate("buy", map[string]any{"provider": "stripe", "product": "price_course_pack", "account": "visitor-4712", "email": buyer, "quantity": 2, "as": "course"})
	var code string
	if err := poll(2*patience, func() error {
		codes, err := l.box.codes(buyer)
		if err == nil && len(codes) != 1 {
			err = fmt.Errorf("%d mails with a code came", len(codes))
		}
		if err == nil {
			code = codes[0]
		}
		return err
	}); err != nil {
		l.t.Fatalf("the code of what was bought: %v, want one mail", err)
	}
	algebra := func(at string, a account, revision, status string) {
		l.t.Helper()
		for edge := range l.info().Edges {
			got := entitlement{Status: "none"}
			for _, e := range l.mustAsk(a, edge, revision).Entitlements {
				if e.ID == "algebra" {
					got = e
				}
			}
			if got.Status != status || got.Active != (status == "active") {
				l.t.Errorf("%s: edge %d shows algebra as %+v, want %s", at, edge, got, status)
			}
		}
	}
	friend, stranger := l.install("phone-5"), l.install("phone-6")
	redeemed := l.app("/v1/redemption-codes/"+strings.ToLower(code)+"/redeem", friend.Session, map[string]any{})
	if redeemed.Account != friend.Account {
		l.t.Errorf("redeemed for %s, want %s", redeemed.Account, friend.Account)
	}
	algebra("redeemed", friend.user(), redeemed.Revision, "active")
	if again := l.app("/v1/redemption-codes/"+code+"/redeem", friend.Session, map[string]any{}); again.Account != friend.Account {
		l.t.Errorf("redeemed again for %s, want %s", again.Account, friend.Account)
	}
	if other := l.tryApp("/v1/redemption-codes/"+code+"/redeem", stranger.Session, map[string]any{}); other.status != http.StatusConflict || other.problem() != "code-used" {
		l.t.Errorf("a stranger with the same code: %s, want code-used", other)
	}
	var held entered
	l.simulate("refund", map[string]any{"purchase": "course"})
	l.backend(http.MethodGet, "/v1/accounts/"+friend.Account, nil, &held)
	algebra("after the refund", friend.user(), held.Revision, "refunded")
	algebra("the stranger", stranger.user(), held.Revision, "none")
	l.nowhere(code, strings.ReplaceAll(code, "-", ""), buyer)
}

// nowhere holds that texts are in no file of a node and in no log, nor in what is compressed there.
func (l *linking) nowhere(texts ...string) {
	l.t.Helper()
	files := 0
	for _, part := range append([]string{"logs"}, nodeDirs(l.dev)...) {
		err := filepath.WalkDir(filepath.Join(l.dir, part), func(path string, entry fs.DirEntry, err error) error {
			var content []byte
			if err == nil && entry.Type().IsRegular() {
				files++
				content, err = os.ReadFile(path)
			}
			for _, plain := range append([][]byte{content}, unpack(content)...) {
				for _, text := range texts {
					if bytes.Contains(plain, []byte(text)) {
						l.t.Errorf("%s has the code or the buyer's address", path)
					}
				}
			}
			if errors.Is(err, fs.ErrNotExist) { // the nodes run: a file may have gone meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			l.t.Error(err)
		}
	}
	if files < 3 {
		l.t.Errorf("only %d files were searched", files)
	}
}
