// Package bench measures the whole of Gatehouse, as a process, on the
// deployment for which it was conceived: four images in two registries, each
// with five signatures, all of which must be verified.
//
//	go test -run '^$' -bench Seed -benchtime 5x ./test/bench
//
// The registries are in the test's own process, 25 ms away and behind bearer
// tokens, so that what registries cost is the same on every machine. Beside
// each figure stands its floor, measured in the same run against the same
// registry: what the protocol demands of a client that loses no time. An image
// that nothing is known of takes six round trips one after the other: a
// challenge, a token, the image's digest, its list of referrers, a signature's
// manifest and its envelope. All four images together take 54 requests: for
// each registry 1 challenge, and for each image 1 token, 1 resolution, 1 list,
// 5 manifests and 5 envelopes.
//
// What does not depend on time is asserted by an ordinary test.
package bench
