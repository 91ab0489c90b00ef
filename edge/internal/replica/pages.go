package replica

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"sync/atomic"

	"github.com/latchkey/latchkey/replication"
)

// tree reads one bucket of a bbolt file inside a read transaction. bbolt's own cursor believes what stands in a page: a flipped bit
// can send it out of the mapping, or in circles until the stack ends, which no recover catches. Here every offset is checked before it
// is used, the depth is bounded, and pages are compared with what they were when the state was last proven.
//
// The layout is that of bbolt's file format version 2 (go.etcd.io/bbolt/internal/common: page.go, inode.go, bucket.go), native endian.
type tree struct {
	data     []byte // the mapping up to the transaction's last page
	pageSize int
	top      uint64 // page of the bucket of buckets
	seals    *seals

	// free are the pages that belong to no tree of this transaction: among them are older copies of those that do. It is needed until
	// seals are there, and nil afterwards.
	free bitmap
}

const (
	pageHeaderBytes = 16 // id 8, flags 2, count 2, overflow 4
	elementBytes    = 16 // branch: pos 4, ksize 4, page 8; leaf: flags 4, pos 4, ksize 4, vsize 4
	bucketBytes     = 16 // root page 8, sequence 8

	// A meta page's content: magic 4, version 4, page size 4, flags 4, root bucket 16, freelist 8, pages 8, txid 8, checksum 8.
	metaFreelist = 32
	metaTxid     = 48
	metaChecksum = 56
	metaBytes    = 64

	flagBranch       = 1
	flagLeaf         = 2
	flagFreelist     = 16
	flagBucketInLeaf = 1

	// A freelist of this many ids or more has its count where the first id would be.
	manyFree = 0xFFFF

	// maxDepth of a tree with 2^48 bytes of pages and a fan-out of at least 4 is 18: more is a circle.
	maxDepth = 24
)

var (
	native       = binary.NativeEndian
	bucketName   = []byte("records")
	errPage      = fmt.Errorf("page: %w", replication.ErrCorrupt)
	errDepth     = fmt.Errorf("tree deeper than %d: %w", maxDepth, replication.ErrCorrupt)
	errSeal      = fmt.Errorf("page is not what it was: %w", replication.ErrCorrupt)
	errNoBucket  = fmt.Errorf("no bucket of records: %w", replication.ErrCorrupt)
	errOrder     = fmt.Errorf("keys out of order: %w", replication.ErrCorrupt)
	errDuplicate = fmt.Errorf("page reached twice: %w", replication.ErrCorrupt)
	errFreePage  = fmt.Errorf("page in use is listed as free: %w", replication.ErrCorrupt)
	errMeta      = fmt.Errorf("meta page: %w", replication.ErrCorrupt)
	errFreelist  = fmt.Errorf("freelist: %w", replication.ErrCorrupt)
)

// page is one checked page.
type page struct {
	id    uint64
	data  []byte // with its overflow pages
	count int
	leaf  bool
}

func (t *tree) page(id uint64) (page, error) {
	pages := uint64(len(t.data) / t.pageSize)
	if id < 2 || id >= pages {
		return page{}, errPage
	}
	if t.free.has(id) {
		return page{}, errFreePage
	}
	head := t.data[id*uint64(t.pageSize):]
	overflow := uint64(native.Uint32(head[12:]))
	if native.Uint64(head) != id || overflow >= pages-id {
		return page{}, errPage
	}
	return checkPage(id, head[:(overflow+1)*uint64(t.pageSize)])
}

// checkPage checks a page's header against its size.
func checkPage(id uint64, data []byte) (page, error) {
	if len(data) < pageHeaderBytes {
		return page{}, errPage
	}
	p := page{id: id, data: data, count: int(native.Uint16(data[10:]))}
	switch native.Uint16(data[8:]) {
	case flagBranch:
		if p.count == 0 {
			return page{}, errPage
		}
	case flagLeaf:
		p.leaf = true
	default:
		return page{}, errPage
	}
	if pageHeaderBytes+p.count*elementBytes > len(p.data) {
		return page{}, errPage
	}
	return p, nil
}

// element returns the i-th key and, in a leaf, its value and flags, or, in a branch, the child page.
func (p *page) element(i int) (key, value []byte, flags uint32, child uint64, err error) {
	at := pageHeaderBytes + i*elementBytes
	e := p.data[at : at+elementBytes]
	var pos, ksize, vsize uint64
	if p.leaf {
		flags = native.Uint32(e)
		pos, ksize, vsize = uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
	} else {
		pos, ksize = uint64(native.Uint32(e)), uint64(native.Uint32(e[4:]))
		child = native.Uint64(e[8:])
	}
	from := uint64(at) + pos
	if from < uint64(pageHeaderBytes+p.count*elementBytes) || from+ksize+vsize > uint64(len(p.data)) {
		return nil, nil, 0, 0, errPage
	}
	return p.data[from : from+ksize], p.data[from+ksize : from+ksize+vsize], flags, child, nil
}

// search returns the first index whose key is not below key, and whether it is equal.
func (p *page) search(key []byte) (int, bool, error) {
	low, high := 0, p.count
	for low < high {
		mid := int(uint(low+high) >> 1)
		k, _, _, _, err := p.element(mid)
		if err != nil {
			return 0, false, err
		}
		switch bytes.Compare(k, key) {
		case 0:
			return mid, true, nil
		case -1:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low, false, nil
}

// walk goes from page p down to the leaf where key belongs. Every page on the way is shown to visit, or, without visit, compared with
// its seal.
func (t *tree) walk(p page, key []byte, visit func(page)) (page, error) {
	for range maxDepth {
		if visit != nil {
			visit(p)
		} else if !t.seals.hold(p) {
			return page{}, errSeal
		}
		if p.leaf {
			return p, nil
		}
		i, exact, err := p.search(key)
		if err != nil {
			return page{}, err
		}
		if !exact && i > 0 {
			i--
		}
		_, _, _, child, err := p.element(i)
		if err != nil {
			return page{}, err
		}
		if p, err = t.page(child); err != nil {
			return page{}, err
		}
	}
	return page{}, errDepth
}

// root finds the bucket's own root page. A small bucket has none: its only leaf lies within the element that names it.
func (t *tree) root(visit func(page)) (page, error) {
	top, err := t.page(t.top)
	if err != nil {
		return page{}, err
	}
	p, err := t.walk(top, bucketName, visit)
	if err != nil {
		return page{}, err
	}
	i, exact, err := p.search(bucketName)
	if err != nil {
		return page{}, err
	}
	if !exact {
		return page{}, errNoBucket
	}
	_, value, flags, _, err := p.element(i)
	if err != nil || flags != flagBucketInLeaf || len(value) < bucketBytes {
		return page{}, errNoBucket
	}
	if id := native.Uint64(value); id != 0 {
		return t.page(id)
	}
	inline, err := checkPage(0, value[bucketBytes:])
	if err == nil && !inline.leaf {
		err = errPage
	}
	return inline, err
}

// get returns the value of key; it is a part of the mapping and valid only inside the transaction. Error: replication.ErrCorrupt.
func (t *tree) get(key []byte) (value []byte, found bool, err error) {
	root, err := t.root(nil)
	if err != nil {
		return nil, false, err
	}
	p, err := t.walk(root, key, nil)
	if err != nil {
		return nil, false, err
	}
	i, exact, err := p.search(key)
	if err != nil || !exact {
		return nil, false, err
	}
	_, value, flags, _, err := p.element(i)
	if err != nil {
		return nil, false, err
	}
	if flags != 0 {
		return nil, false, errPage
	}
	return value, true, nil
}

// path shows visit every page on the way to key.
func (t *tree) path(key []byte, visit func(page)) error {
	root, err := t.root(visit)
	if err != nil {
		return err
	}
	_, err = t.walk(root, key, visit)
	return err
}

// checkLeaf checks every element of the leaf where key belongs, as bbolt will read all of them when it writes there.
func (t *tree) checkLeaf(key []byte) error {
	root, err := t.root(nil)
	if err != nil {
		return err
	}
	p, err := t.walk(root, key, nil)
	if err != nil {
		return err
	}
	for i := range p.count {
		if _, _, flags, _, err := p.element(i); err != nil || flags != 0 {
			return errPage
		}
	}
	return nil
}

// each calls yield with every key and value in ascending order of keys.
func (t *tree) each(visit func(page), yield func(key, value []byte) error) error {
	root, err := t.root(visit)
	if err != nil {
		return err
	}
	e := eacher{t: t, visit: visit, yield: yield, left: len(t.data) / t.pageSize}
	return e.page(root, 0, nil, nil)
}

type eacher struct {
	t     *tree
	visit func(page)
	yield func(key, value []byte) error
	left  int // pages that can still be met if none is met twice
	last  []byte
	any   bool
}

// page yields what is in p and below it. Every key must lie in [low, high), where search looks for it; nil is no bound. Without that a flipped key of
// an inner page would leave the sum of all records as it is and hide some of them from search.
func (e *eacher) page(p page, depth int, low, high []byte) error {
	if depth >= maxDepth {
		return errDepth
	}
	if e.left--; e.left < 0 {
		return errDuplicate
	}
	if e.visit != nil {
		e.visit(p)
	}
	for i := range p.count {
		key, value, flags, child, err := p.element(i)
		if err != nil {
			return err
		}
		if !p.leaf {
			childLow, childHigh := low, high
			if i > 0 {
				childLow = key
			}
			if i+1 < p.count {
				if childHigh, _, _, _, err = p.element(i + 1); err != nil {
					return err
				}
			}
			below, err := e.t.page(child)
			if err != nil {
				return err
			}
			if err := e.page(below, depth+1, childLow, childHigh); err != nil {
				return err
			}
			continue
		}
		if bytes.Compare(key, low) < 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return errOrder
		}
		if flags != 0 {
			return errPage
		}
		if e.any && bytes.Compare(key, e.last) <= 0 {
			return errOrder
		}
		e.last, e.any = append(e.last[:0], key...), true
		if err := e.yield(key, value); err != nil {
			return err
		}
	}
	return nil
}

// metas checks both meta pages. bbolt goes on with the older one when the newer is damaged, which is a state that was left behind.
func (t *tree) metas() error {
	for id := range 2 {
		m := t.data[id*t.pageSize+pageHeaderBytes:][:metaBytes]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaChecksum]) // never fails
		if native.Uint64(m[metaChecksum:]) != sum.Sum64() {
			return errMeta
		}
	}
	return nil
}

// readFree reads the freelist that the transaction txid committed: pages of no tree. Until the file is proven it stands in for the seals: an inner
// page with a flipped page number can lead to an older copy of a leaf only through it.
func (t *tree) readFree(txid int) (bitmap, error) {
	m := t.data[(txid%2)*t.pageSize+pageHeaderBytes:][:metaBytes]
	if native.Uint64(m[metaTxid:]) != uint64(txid) {
		return nil, errMeta
	}
	id, pages := native.Uint64(m[metaFreelist:]), uint64(len(t.data)/t.pageSize)
	if id < 2 || id >= pages {
		return nil, errFreelist
	}
	head := t.data[id*uint64(t.pageSize):]
	count, first := uint64(native.Uint16(head[10:])), uint64(0)
	if native.Uint64(head) != id || native.Uint16(head[8:]) != flagFreelist {
		return nil, errFreelist
	}
	if count == manyFree {
		count, first = native.Uint64(head[pageHeaderBytes:]), 1
	}
	if count > pages || pageHeaderBytes+(first+count)*8 > uint64(len(head)) {
		return nil, errFreelist
	}
	free := make(bitmap, pages/64+1)
	last := uint64(0)
	for i := range count {
		id := native.Uint64(head[pageHeaderBytes+(first+i)*8:])
		if id < 2 || id >= pages || id <= last {
			return nil, errFreelist
		}
		free[id/64] |= 1 << (id % 64)
		last = id
	}
	return free, nil
}

// bitmap is a set of page numbers. Nil is empty.
type bitmap []uint64

func (b bitmap) has(id uint64) bool { return id/64 < uint64(len(b)) && b[id/64]>>(id%64)&1 != 0 }

// seals remembers what pages looked like when the state was proven. A flipped page number could lead to an older copy of a leaf, whose
// records still have the right checksums: a wrong answer that nothing else would find.
//
// It holds 8 bytes for each page of the file (0.2 %).
type seals struct {
	pages atomic.Pointer[[]atomic.Uint64]
}

const (
	sealUnknown = 0 // never seen; the scan may set it
	sealFreed   = 1 // rewritten since; only Apply may set it
	sealBit     = 1 << 63
)

var sealSeed = maphash.MakeSeed()

func sealOf(p page) uint64 { return maphash.Bytes(sealSeed, p.data) | sealBit }

// hold reports whether p is not known to differ from what was proven.
func (s *seals) hold(p page) bool {
	cell := s.cell(p.id) // an inline page has none: it is a part of its sealed parent
	if cell == nil {
		return true
	}
	want := cell.Load()
	return want == sealUnknown || want == sealFreed || want == sealOf(p)
}

func (s *seals) cell(id uint64) *atomic.Uint64 {
	if s == nil || id == 0 {
		return nil
	}
	cells := s.pages.Load()
	if cells == nil || id >= uint64(len(*cells)) {
		return nil
	}
	return &(*cells)[id]
}

// grow makes room for pages. Only Apply and open call it.
func (s *seals) grow(pages int) {
	old := s.pages.Load()
	if old != nil && len(*old) >= pages {
		return
	}
	cells := make([]atomic.Uint64, pages+pages/4)
	if old != nil {
		for i := range *old {
			cells[i].Store((*old)[i].Load())
		}
	}
	s.pages.Store(&cells)
}

// learn seals a page that the scan has proven, unless Apply has been there.
func (s *seals) learn(p page) {
	if cell := s.cell(p.id); cell != nil {
		cell.CompareAndSwap(sealUnknown, sealOf(p))
	}
}

// free unseals a page that is about to be replaced.
func (s *seals) free(p page) {
	if cell := s.cell(p.id); cell != nil {
		cell.Store(sealFreed)
	}
}

// set seals a page that was just written.
func (s *seals) set(p page) {
	if cell := s.cell(p.id); cell != nil {
		cell.Store(sealOf(p))
	}
}

// open reports whether a page was rewritten and not sealed since, or, once all were proven, is new.
func (s *seals) open(id uint64, proven bool) bool {
	cell := s.cell(id)
	if cell == nil {
		return false
	}
	seal := cell.Load()
	return seal == sealFreed || proven && seal == sealUnknown
}

// freeAll unseals every page.
func (s *seals) freeAll() {
	if cells := s.pages.Load(); cells != nil {
		for i := range *cells {
			(*cells)[i].Store(sealFreed)
		}
	}
}
