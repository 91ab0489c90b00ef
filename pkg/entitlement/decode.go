package entitlement

import (
	"math"
	"unicode/utf8"
)

// decodeCanonical is the part of Decode that edges do for each check: it reads a record without reflection, about three times as fast
// (BenchmarkDecode), and reports whether b was canonical CBOR with no field but those of today. If not, a is in any state and the general
// decoder judges. Texts of a share memory of their own, not b's.
func (a *Account) decodeCanonical(b []byte) bool {
	*a = Account{}
	r := reader{text: string(b)}
	r.fields(func(field uint64) {
		switch field {
		case 1:
			a.ID = AccountID(r.string())
		case 2:
			a.CreatedAt = r.int()
		case 3:
			a.SessionsFrom = r.int()
		case 4:
			a.Tester = r.bool()
		case 5:
			a.Purchases = make([]Purchase, r.len(majorArray))
			for i := range a.Purchases {
				r.purchase(&a.Purchases[i])
			}
		case 6:
			a.Grants = make([]Grant, r.len(majorArray))
			for i := range a.Grants {
				r.grant(&a.Grants[i])
			}
		default:
			r.fail()
		}
	})
	return !r.failed && r.at == len(r.text)
}

// The major types of CBOR (RFC 8949 section 3.1) that records hold.
const (
	majorUnsigned = 0
	majorNegative = 1
	majorText     = 3
	majorArray    = 4
	majorMap      = 5
	simpleFalse   = 0xf4
	simpleTrue    = 0xf5
)

// reader takes canonical CBOR apart. After the first thing that it does not know, failed is set and everything reads as zero.
type reader struct {
	text   string // the whole record: strings are cut out of it without another copy
	at     int
	failed bool
}

func (r *reader) fail() { r.failed, r.at = true, len(r.text) }

func (r *reader) byte() byte {
	if r.at >= len(r.text) {
		r.fail()
		return 0
	}
	r.at++
	return r.text[r.at-1]
}

// head reads a data item's major type and argument.
func (r *reader) head() (major byte, n uint64) {
	b := r.byte()
	major, n = b>>5, uint64(b&0x1f)
	if n < 24 {
		return major, n
	}
	size := 1 << (n - 24)
	if n > 27 || len(r.text)-r.at < size {
		r.fail()
		return 0, 0
	}
	n = 0
	for range size {
		n = n<<8 | uint64(r.text[r.at])
		r.at++
	}
	return major, n
}

// len reads the length of a text, array or map; each element takes a byte at least.
func (r *reader) len(major byte) int {
	got, n := r.head()
	if got != major || n > uint64(len(r.text)-r.at) || n > maxElements {
		r.fail()
		return 0
	}
	return int(n)
}

// fields calls read for each field of a map, which must come in the order of their numbers.
func (r *reader) fields(read func(field uint64)) {
	last := -1
	for range r.len(majorMap) {
		major, field := r.head()
		if major != majorUnsigned || field > math.MaxUint8 || int(field) <= last {
			r.fail()
		}
		if r.failed {
			return
		}
		last = int(field)
		read(field)
	}
}

func (r *reader) string() string {
	n := r.len(majorText)
	s := r.text[r.at : r.at+n]
	r.at += n
	if !utf8.ValidString(s) {
		r.fail()
	}
	return s
}

func (r *reader) int() int64 {
	major, n := r.head()
	if major > majorNegative || n > math.MaxInt64 {
		r.fail()
		return 0
	}
	if major == majorNegative {
		return -1 - int64(n)
	}
	return int64(n)
}

func (r *reader) bool() bool {
	b := r.byte()
	if b != simpleTrue && b != simpleFalse {
		r.fail()
	}
	return b == simpleTrue
}

func (r *reader) purchase(p *Purchase) {
	r.fields(func(field uint64) {
		switch field {
		case 1:
			p.ID = PurchaseID(r.string())
		case 2:
			p.Provider = Provider(r.string())
		case 3:
			p.Store = r.string()
		case 4:
			p.Items = make([]Item, r.len(majorArray))
			for i := range p.Items {
				r.item(&p.Items[i])
			}
		case 5:
			p.TrialUsed = r.bool()
		case 6:
			p.Doubt = r.bool()
		default:
			r.fail()
		}
	})
}

func (r *reader) item(i *Item) {
	r.fields(func(field uint64) {
		switch field {
		case 1:
			i.ID = r.string()
		case 2:
			r.term(&i.Term)
		case 3:
			state := r.int()
			if i.State = ItemState(state); int64(i.State) != state {
				r.fail()
			}
		case 4:
			i.AccessUntil = r.int()
		case 5:
			i.BillingGraceUntil = r.int()
		case 6:
			i.WillRenew = r.bool()
		case 7:
			i.Reason = Reason(r.string())
		case 8:
			i.Recurring = r.bool()
		default:
			r.fail()
		}
	})
}

func (r *reader) term(t *Term) {
	r.fields(func(field uint64) {
		switch field {
		case 1:
			t.ID = TermID(r.string())
		case 2:
			t.Product = ProductID(r.string())
		case 3:
			t.Also = make([]ProductID, r.len(majorArray))
			for i := range t.Also {
				t.Also[i] = ProductID(r.string())
			}
		case 4:
			t.Quantity = r.int()
		case 5:
			t.Price = &Price{}
			r.price(t.Price)
		case 10:
			t.StartsAt = r.int()
		case 11:
			t.EndsAt = r.int()
		case 12:
			t.Trial = r.bool()
		case 13:
			t.SupersededAt = r.int()
		case 14:
			t.RevokedAt = r.int()
		default:
			r.fail()
		}
	})
}

func (r *reader) price(p *Price) {
	r.fields(func(field uint64) {
		switch field {
		case 1:
			p.Amount = r.int()
		case 2:
			p.Currency = r.string()
		case 3:
			p.Period = r.string()
		default:
			r.fail()
		}
	})
}

func (r *reader) grant(g *Grant) {
	r.fields(func(field uint64) {
		switch field {
		case 1:
			g.ID = r.string()
		case 2:
			g.Entitlement = r.string()
		case 3:
			g.CreatedAt = r.int()
		case 4:
			g.EndsAt = r.int()
		default:
			r.fail()
		}
	})
}
