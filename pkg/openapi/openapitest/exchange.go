package openapitest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/latchkey/latchkey/pkg/problem"
)

// maxJudgedBytes is how much of a body is kept to be judged; a larger one is judged by its status and media type.
const maxJudgedBytes = 8 << 20

// Transport returns base with every exchange judged that goes to an address under Watch. What the client sees is the same.
func Transport(base http.RoundTripper) http.RoundTripper { return &transport{base} }

type transport struct{ base http.RoundTripper }

// CloseIdleConnections hands on what http.Client asks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	w := watching(req.URL.Host)
	if w == nil || req.Method == http.MethodHead || req.Method == http.MethodOptions || w.program.methods != nil && !slices.Contains(w.program.methods, req.Method) {
		return t.base.RoundTrip(req)
	}
	x := &exchange{watch: w, request: req}
	x.keepRequestBody()
	res, err := t.base.RoundTrip(req)
	if err != nil {
		return res, err
	}
	x.response = res
	res.Body = &observed{ReadCloser: res.Body, exchange: x}
	return res, nil
}

// exchange is a request and its answer.
type exchange struct {
	watch    *watch
	request  *http.Request
	response *http.Response

	sent     []byte
	sentKept bool // sent is the whole request body
	once     sync.Once
}

// keepRequestBody copies what can be read twice, as the bodies of nearly all tests can.
func (x *exchange) keepRequestBody() {
	if x.request.Body == nil || x.request.Body == http.NoBody {
		x.sentKept = true
		return
	}
	if x.request.GetBody == nil {
		return
	}
	body, err := x.request.GetBody()
	if err != nil {
		return
	}
	defer body.Close()
	x.sent, err = io.ReadAll(io.LimitReader(body, maxJudgedBytes+1))
	x.sentKept = err == nil && len(x.sent) <= maxJudgedBytes
}

// observed keeps what is read of an answer, and has it judged at the end.
type observed struct {
	io.ReadCloser
	exchange *exchange
	kept     bytes.Buffer
	tooLong  bool
	whole    bool
}

func (o *observed) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if o.tooLong = o.tooLong || o.kept.Len()+n > maxJudgedBytes; !o.tooLong {
		o.kept.Write(p[:n])
	}
	if errors.Is(err, io.EOF) {
		o.whole = true
		o.judge()
	}
	return n, err
}

func (o *observed) Close() error {
	o.judge()
	return o.ReadCloser.Close()
}

func (o *observed) judge() {
	o.exchange.once.Do(func() {
		whole := (o.whole || int64(o.kept.Len()) == o.exchange.response.ContentLength) && !o.tooLong
		o.exchange.judge(o.kept.Bytes(), whole)
	})
}

// judge holds the exchange against the description. got is the body as far as it was read.
func (x *exchange) judge(got []byte, whole bool) {
	status := x.response.StatusCode
	success := status/100 == 2 || status == http.StatusNotModified
	path := x.request.URL.EscapedPath()
	op := x.watch.doc.find(x.watch.program, x.request.Method, path)
	if op == nil {
		if success {
			x.watch.fault(fmt.Sprintf("%s answers %s %s with %d, and no such route is described for it", x.watch.program.name, x.request.Method, path, status))
		}
		return
	}
	var faults []string
	if success {
		faults = append(faults, x.judgeRequest(op)...)
	}
	faults = append(faults, x.judgeAnswer(op, got, whole)...)
	for _, fault := range faults {
		x.watch.fault(fmt.Sprintf("%s (%s) with %d: %s", op.route(), op.id, status, fault))
	}
	if success && len(faults) == 0 {
		op.mu.Lock()
		op.answered = true
		op.mu.Unlock()
	}
}

// judgeRequest says what of a request that was taken is not described.
func (x *exchange) judgeRequest(op *operation) (faults []string) {
	query := x.request.URL.Query()
	for _, p := range op.params {
		values := map[string][]string{"query": query[p.name], "header": x.request.Header.Values(p.name)}[p.in]
		for _, text := range values {
			if text == "" {
				continue // as good as absent
			}
			var v any = text
			if n, err := strconv.ParseFloat(text, 64); err == nil && p.schema.takesNumbers() {
				v = n
			}
			c := check{}
			c.value(p.schema, v, "")
			for _, fault := range c.faults {
				faults = append(faults, fmt.Sprintf("taken although its %s parameter %s %s", p.in, p.name, fault))
			}
		}
	}
	switch {
	case !x.sentKept:
	case len(x.sent) == 0:
		if op.bodyRequired {
			faults = append(faults, "taken without a body, which is described as required")
		}
	case op.body != nil:
		// What a backend sends is taken strictly, what an app sends is not.
		backend := strings.HasPrefix(x.request.Header.Get("Authorization"), "Bearer lk_") && strings.Contains(x.request.Header.Get("Authorization"), "_sk_")
		for _, fault := range op.body.checkJSON(x.sent, backend) {
			faults = append(faults, "request taken: "+fault)
		}
	}
	return faults
}

func (s *schema) takesNumbers() bool {
	if s.ref != nil {
		return s.ref.takesNumbers()
	}
	return slices.Contains(s.types, "integer") || slices.Contains(s.types, "number")
}

// judgeAnswer says what of an answer is not described.
func (x *exchange) judgeAnswer(op *operation, got []byte, whole bool) []string {
	content, known := op.answers[x.response.StatusCode]
	if !known {
		return []string{"no such status is described: " + typeOf(got)}
	}
	if len(content) == 0 {
		if len(got) > 0 {
			return []string{"a body, and none is described"}
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(x.response.Header.Get("Content-Type"))
	s := content[media]
	if err != nil || s == nil {
		return []string{fmt.Sprintf("Content-Type %q is not described", x.response.Header.Get("Content-Type"))}
	}
	var parts [][]byte
	switch {
	case media == "text/event-stream":
		parts = eventData(got)
	case !whole:
		return nil
	case media == "application/x-ndjson":
		parts = slices.DeleteFunc(bytes.Split(got, []byte("\n")), func(line []byte) bool { return len(line) == 0 })
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		parts = [][]byte{got}
	default:
		c := check{}
		c.value(s, string(got), "")
		return c.faults
	}
	var faults []string
	for _, part := range parts {
		faults = append(faults, s.checkJSON(part, false)...)
	}
	return faults
}

// typeOf names the problem in a body, for a fault's text.
func typeOf(body []byte) string {
	_, rest, found := strings.Cut(string(body), problem.BaseURL)
	slug, _, ended := strings.Cut(rest, `"`)
	if !found || !ended {
		return "no problem"
	}
	return slug + " (add it to x-problems)"
}

// eventData returns the data of the events that came whole.
func eventData(stream []byte) (list [][]byte) {
	events := bytes.Split(stream, []byte("\n\n"))
	for _, event := range events[:len(events)-1] {
		for _, line := range bytes.Split(event, []byte("\n")) {
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
				list = append(list, data)
			}
		}
	}
	return list
}
