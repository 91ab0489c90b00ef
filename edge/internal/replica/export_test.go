package replica

import "bytes"

const testPageSize = 4096

// OpenUnproven is Open at the moment before the proof of the file begins: it stays there.
func OpenUnproven(cfg Config) (*Replica, error) {
	r, err := open(cfg)
	r.stop = func() {}
	return r, err
}

// ChildPointers returns the offsets of all page numbers in the inner pages of a bbolt file's content.
func ChildPointers(content []byte) []int {
	var offsets []int
	for start := 2 * testPageSize; start+testPageSize <= len(content); start += testPageSize {
		page := content[start : start+testPageSize]
		if native.Uint16(page[8:]) != flagBranch || native.Uint64(page) != uint64(start/testPageSize) {
			continue
		}
		for i := range int(native.Uint16(page[10:])) {
			offsets = append(offsets, start+pageHeaderBytes+i*elementBytes+8)
		}
	}
	return offsets
}

// OlderCopies returns, for the page number at an offset of content, the pages that begin with the same key as the one it names: what it was
// before, as long as nothing was written over it.
func OlderCopies(content []byte, at int) []uint64 {
	read := func(id uint64) (first, whole []byte) {
		p, err := checkPage(id, content[id*testPageSize:][:testPageSize])
		if err != nil || native.Uint64(p.data) != id || p.count == 0 {
			return nil, nil
		}
		if first, _, _, _, err = p.element(0); err != nil {
			return nil, nil
		}
		return first, p.data[pageHeaderBytes:]
	}
	now := native.Uint64(content[at:])
	first, whole := read(now)
	if first == nil {
		return nil
	}
	var older []uint64
	for id := uint64(2); (id+1)*testPageSize <= uint64(len(content)); id++ {
		if f, w := read(id); id != now && bytes.Equal(f, first) && !bytes.Equal(w, whole) {
			older = append(older, id)
		}
	}
	return older
}

// Structures returns the ranges of content that hold neither keys nor values: both meta pages, the freelists.
func Structures(content []byte) [][2]int {
	ranges := [][2]int{{0, pageHeaderBytes + metaBytes}, {testPageSize, testPageSize + pageHeaderBytes + metaBytes}}
	for id := range 2 {
		list := int(native.Uint64(content[id*testPageSize+pageHeaderBytes+metaFreelist:])) * testPageSize
		ranges = append(ranges, [2]int{list, list + pageHeaderBytes + 8*int(native.Uint16(content[list+10:]))})
	}
	return ranges
}
