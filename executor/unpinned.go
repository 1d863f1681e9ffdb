package executor

// Unpinned is what becomes of an image that has only a tag, where a rule demands
// proof of it: what the tag names may change between the verdict and the pull. A
// greater value is stricter. The zero value is UnpinnedAllow.
type Unpinned uint8

// What becomes of it.
const (
	// UnpinnedAllow judges it as any other.
	UnpinnedAllow Unpinned = iota
	// UnpinnedWarn judges it as any other, and has [Result.Unpinned] say so.
	UnpinnedWarn
	// UnpinnedDeny denies it with [ErrUnpinned]. No registry is asked.
	UnpinnedDeny
)

// deniesTag says whether the image is denied for its having only a tag, if a rule
// demands proof of it.
func (r Request) deniesTag() bool {
	return r.Unpinned == UnpinnedDeny && r.Reference.Digest == ""
}

// Unpinned says whether whoever asked wants to know that the image has only a
// tag, and it does: by a rule that demands proof.
func (r *Result) Unpinned() bool {
	return r.Request.Unpinned != UnpinnedAllow && r.Request.Reference.Digest == "" && r.Rule != "" && r.Exemption == nil
}
