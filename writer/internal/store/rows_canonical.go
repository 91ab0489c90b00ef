package store

import (
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
)

// The rows and the command that a webhook reads and writes, and the state that every read begins with, are read and written by hand: see package canonical. A field that is new must be
// added here; the tests hold both ways against the general codec.

// ReadCanonical implements canonical.Readable.
func (c *RecordEvent) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			c.Event.ReadCanonical(r)
		case 2:
			c.Pulled = r.Bool()
		case 3:
			c.Buyer = r.String()
		case 4:
			c.BuyerOf = entitlement.Link(r.String())
		case 5:
			c.Card = r.String()
		case 6:
			c.CardOf = r.String()
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (c *RecordEvent) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	c.Event.WriteCanonical(w)
	w.True(m, 2, c.Pulled)
	w.Text(m, 3, c.Buyer)
	w.Text(m, 4, string(c.BuyerOf))
	w.Text(m, 5, c.Card)
	w.Text(m, 6, c.CardOf)
}

// ReadCanonical implements canonical.Readable.
func (row *purchaseRow) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			row.Evidence.ReadCanonical(r)
		case 2:
			row.Owner = entitlement.AccountID(r.String())
		case 3:
			row.Claim = &claimRow{}
			row.Claim.ReadCanonical(r)
		case 4:
			row.Shares = canonical.Texts[entitlement.AccountID](r)
		case 5:
			row.Lost = canonical.List(r, func(x *lostRow) { x.read(r) })
		case 6:
			row.Codes = canonical.List(r, func(x *purchaseCode) { x.read(r) })
		case 7:
			row.Buyers = canonical.Texts[string](r)
		case 8:
			row.Outnamed = canonical.List(r, func(x *lostRow) { x.read(r) })
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (row *purchaseRow) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	row.Evidence.WriteCanonical(w)
	w.Text(m, 2, string(row.Owner))
	if row.Claim != nil {
		w.Field(m, 3)
		row.Claim.WriteCanonical(w)
	}
	canonical.WriteTexts(w, m, 4, row.Shares)
	canonical.WriteList(w, m, 5, row.Lost, func(x *lostRow) { x.write(w) })
	canonical.WriteList(w, m, 6, row.Codes, func(x *purchaseCode) { x.write(w) })
	canonical.WriteTexts(w, m, 7, row.Buyers)
	canonical.WriteList(w, m, 8, row.Outnamed, func(x *lostRow) { x.write(w) })
}

func (row *purchaseCode) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			row.ID = r.String()
		case 2:
			row.Product = entitlement.ProductID(r.String())
		case 3:
			row.Delivered = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (row *purchaseCode) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(row.ID)
	w.Field(m, 2)
	w.String(string(row.Product))
	w.True(m, 3, row.Delivered)
}

func (row *lostRow) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			row.Account = entitlement.AccountID(r.String())
		case 2:
			row.Stamp = r.Int()
		default:
			r.Fail()
		}
	})
}

func (row *lostRow) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(row.Account))
	w.Field(m, 2)
	w.Number(row.Stamp)
}

// ReadCanonical implements canonical.Readable.
func (row *claimRow) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			row.Account = entitlement.AccountID(r.String())
		case 2:
			row.Stamp = r.Int()
		case 3:
			row.Support = r.Bool()
		case 4:
			row.ForfeitedAt = r.Int()
		case 5:
			row.Shown = r.Bool()
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (row *claimRow) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(row.Account))
	w.Field(m, 2)
	w.Number(row.Stamp)
	w.True(m, 3, row.Support)
	w.Int(m, 4, row.ForfeitedAt)
	w.True(m, 5, row.Shown)
}

// ReadCanonical implements canonical.Readable.
func (row *eventRow) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			row.Digest = r.Bytes()
		case 2:
			row.Type = r.String()
		case 3:
			row.Outcome = Outcome(r.String())
		case 4:
			row.Stamp = r.Int()
		case 5:
			row.CreatedAt = r.Int()
		case 6:
			row.Epoch = r.Uint()
		case 7:
			row.N = r.Uint()
		case 8:
			row.Purchases = canonical.Texts[entitlement.PurchaseID](r)
		case 9:
			row.Account = entitlement.AccountID(r.String())
		case 10:
			row.CorrelationID = r.String()
		case 11:
			row.Seq = r.Uint()
		case 12:
			row.Segment = r.Uint()
		case 13:
			row.Offset = r.Int()
		case 14:
			row.Caller = r.String()
		case 15:
			row.Refs = &Refs{}
			row.Refs.ReadCanonical(r)
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (row *eventRow) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Bytes(m, 1, row.Digest)
	w.Text(m, 2, row.Type)
	w.Field(m, 3)
	w.String(string(row.Outcome))
	w.Field(m, 4)
	w.Number(row.Stamp)
	w.Int(m, 5, row.CreatedAt)
	w.Field(m, 6)
	w.Unsigned(row.Epoch)
	w.Field(m, 7)
	w.Unsigned(row.N)
	canonical.WriteTexts(w, m, 8, row.Purchases)
	w.Text(m, 9, string(row.Account))
	w.Text(m, 10, row.CorrelationID)
	w.Field(m, 11)
	w.Unsigned(row.Seq)
	w.Field(m, 12)
	w.Unsigned(row.Segment)
	w.Field(m, 13)
	w.Number(row.Offset)
	w.Text(m, 14, row.Caller)
	if row.Refs != nil {
		w.Field(m, 15)
		row.Refs.WriteCanonical(w)
	}
}

// ReadCanonical implements canonical.Readable.
func (refs *Refs) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			refs.From = entitlement.AccountID(r.String())
		case 2:
			refs.To = entitlement.AccountID(r.String())
		case 3:
			refs.Merge = r.String()
		case 4:
			refs.Grant = r.String()
		case 5:
			refs.Intent = r.String()
		case 6:
			refs.Consumption = r.String()
		case 7:
			refs.Code = r.String()
		case 8:
			refs.APIKey = r.String()
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (refs *Refs) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, string(refs.From))
	w.Text(m, 2, string(refs.To))
	w.Text(m, 3, refs.Merge)
	w.Text(m, 4, refs.Grant)
	w.Text(m, 5, refs.Intent)
	w.Text(m, 6, refs.Consumption)
	w.Text(m, 7, refs.Code)
	w.Text(m, 8, refs.APIKey)
}

// ReadCanonical implements canonical.Readable.
func (st *state) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			st.Applied = r.Uint()
		case 2:
			st.AppliedTerm = r.Uint()
		case 3:
			st.Cluster = r.String()
		case 4:
			st.Epoch = r.Uint()
		case 5:
			st.N = r.Uint()
		case 6:
			r.Fill(st.Chain[:])
		case 7:
			r.Fill(st.StateHash[:])
		case 8:
			r.Fill(st.FullHash[:])
		case 9:
			st.Stamp = r.Int()
		case 10:
			rules := r.Uint()
			if st.Rules = uint32(rules); uint64(st.Rules) != rules {
				r.Fail()
			}
		case 11:
			st.Floor = r.Uint()
		case 12:
			st.ChangeBytes = r.Int()
		case 13:
			st.EventSeq = r.Uint()
		case 14:
			st.Segment = r.Uint()
		case 15:
			st.SegmentOffset = r.Int()
		case 16:
			r.Fill(st.SegmentHash[:])
		case 17:
			st.Base = r.String()
		case 18:
			st.Held = r.Bool()
		default:
			r.Fail()
		}
	})
}

// WriteCanonical implements canonical.Writable.
func (st *state) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.Unsigned(st.Applied)
	w.Field(m, 2)
	w.Unsigned(st.AppliedTerm)
	w.Field(m, 3)
	w.String(st.Cluster)
	w.Field(m, 4)
	w.Unsigned(st.Epoch)
	w.Field(m, 5)
	w.Unsigned(st.N)
	w.Field(m, 6)
	w.Blob(st.Chain[:])
	w.Field(m, 7)
	w.Blob(st.StateHash[:])
	w.Field(m, 8)
	w.Blob(st.FullHash[:])
	w.Field(m, 9)
	w.Number(st.Stamp)
	w.Field(m, 10)
	w.Unsigned(uint64(st.Rules))
	w.Field(m, 11)
	w.Unsigned(st.Floor)
	w.Field(m, 12)
	w.Number(st.ChangeBytes)
	w.Field(m, 13)
	w.Unsigned(st.EventSeq)
	w.Field(m, 14)
	w.Unsigned(st.Segment)
	w.Field(m, 15)
	w.Number(st.SegmentOffset)
	w.Field(m, 16)
	w.Blob(st.SegmentHash[:])
	w.Text(m, 17, st.Base)
	w.True(m, 18, st.Held)
}
