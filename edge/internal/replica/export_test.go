package replica

// ChildPointers returns the offsets of all page numbers in the inner pages of a bbolt file's content.
func ChildPointers(content []byte) []int {
	const pageSize = 4096
	var offsets []int
	for start := 2 * pageSize; start+pageSize <= len(content); start += pageSize {
		page := content[start : start+pageSize]
		if native.Uint16(page[8:]) != flagBranch || native.Uint64(page) != uint64(start/pageSize) {
			continue
		}
		for i := range int(native.Uint16(page[10:])) {
			offsets = append(offsets, start+pageHeaderBytes+i*elementBytes+8)
		}
	}
	return offsets
}
