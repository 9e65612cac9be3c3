package prep

// shard is one of several processes that walk the same tree side by side,
// without talking to each other. Every one of them reads every directory, for
// only so it finds those below; what lies in a directory is looked at by the
// shard that the directory's inode number falls to.
//
// A directory without directories in it is finished by its own shard, the
// others, the spine of the tree, by shard 0 alone.
type shard struct {
	// index is below count; a count below 2 is no sharding.
	index, count int
}

// takes tells whether what lies in a directory is this shard's.
func (s shard) takes(inode uint64) bool {
	if s.count < 2 {
		return true
	}
	// Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4):
	// inode numbers of directories are often multiples of a large number.
	return int(inode*0x9e3779b97f4a7c15>>32%uint64(s.count)) == s.index
}

// finishes tells whether the directory itself is this shard's.
func (s shard) finishes(inode uint64, spine bool) bool {
	if s.count > 1 && spine {
		return s.index == 0
	}
	return s.takes(inode)
}
