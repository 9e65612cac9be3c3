package prep

import "testing"

func TestEachDirectoryFallsToOneShard(t *testing.T) {
	const count = 4
	var taken [count]int
	for inode := uint64(2); inode < 400_000; inode += 32 {
		takers := 0
		for index := range count {
			if (shard{index, count}).takes(inode) {
				takers++
				taken[index]++
			}
		}
		if takers != 1 {
			t.Fatalf("inode %d falls to %d shards", inode, takers)
		}
	}
	for index, n := range taken {
		if n < 2500 || n > 3750 {
			t.Errorf("shard %d takes %d of 12500 directories", index, n)
		}
	}
}

func TestASpineIsFinishedByTheFirstShardAlone(t *testing.T) {
	for index := range 4 {
		if got := (shard{index, 4}).finishes(12, true); got != (index == 0) {
			t.Errorf("shard %d finishes: %v", index, got)
		}
	}
	if !(shard{}).finishes(12, true) || !(shard{}).takes(12) {
		t.Error("a whole walk leaves something to others")
	}
}
