package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

var (
	errAnswer = errors.New("not an answer that this client reads")
	errMore   = fmt.Errorf("%w: more came than was asked for", errAnswer)
)

// inbox holds what came in over one connection on which at most one request is under way. Its zero value is ready.
type inbox struct {
	buf  []byte
	from int // where what was not taken out begins
	have int // where it ends
}

// inboxBytes is how much room there is to read into, at least.
const inboxBytes = 16 << 10

// space is where to read to; add then says how much was read.
func (in *inbox) space() []byte {
	if in.from > 0 {
		in.have = copy(in.buf, in.buf[in.from:in.have])
		in.from = 0
	}
	if len(in.buf)-in.have < inboxBytes/2 {
		in.buf = append(in.buf[:in.have], make([]byte, inboxBytes)...)
	}
	return in.buf[in.have:]
}

func (in *inbox) add(n int) { in.have += n }

// rest is how many bytes came that were not taken out.
func (in *inbox) rest() int { return in.have - in.from }

// answer takes out the first answer that came, once it is whole. The body is valid until the next call of space. Error: errAnswer.
func (in *inbox) answer() (status int, body []byte, whole bool, err error) {
	b := in.buf[in.from:in.have]
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		return 0, nil, false, nil
	}
	const prefix = len("HTTP/1.1 ")
	if head < prefix+3 {
		return 0, nil, false, errAnswer
	}
	if status, err = strconv.Atoi(string(b[prefix : prefix+3])); err != nil {
		return 0, nil, false, errAnswer
	}
	length := 0
	if status != http.StatusNotModified && status != http.StatusNoContent {
		if length, err = contentLength(b[:head]); err != nil {
			return 0, nil, false, err
		}
	}
	begin := head + len("\r\n\r\n")
	if len(b) < begin+length {
		return 0, nil, false, nil
	}
	in.from += begin + length
	return status, b[begin : begin+length], true, nil
}

// contentLength finds the length in the lines of a head. This client reads no body of unknown length.
func contentLength(head []byte) (int, error) {
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(name, []byte("content-length")) {
			continue
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err != nil || n < 0 {
			return 0, errAnswer
		}
		return n, nil
	}
	return 0, errAnswer
}

// failureOf says which answer came instead of the wanted one.
func failureOf(status int, body []byte) string { return fmt.Sprintf("%d %.300s", status, body) }
