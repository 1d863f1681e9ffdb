// Package bench measures the whole of Gatehouse, as a process, beside what is
// the least that can be: each floor is counted from what the protocol demands,
// or measured in the same run.
//
//	go test -run '^$' -bench . -benchtime 1x -timeout 60m ./test/bench
//
// The registries are in the test's own process, most of them 25 ms away and
// behind bearer tokens, so that what registries cost is the same on every
// machine. One iteration of a benchmark is a whole experiment; it writes a
// table, in which MISSED marks a figure beyond its bar, and adds its result to
// the file GATEHOUSE_BENCH_OUT, if there is one, of which test/bench/plot draws
// the pictures of docs/performance.md.
//
//   - bench_test.go: the deployment for which Gatehouse was conceived: four
//     images in two registries, each with five signatures. An image that nothing
//     is known of takes six round trips one after the other: a challenge, a
//     token, the image's digest, its list of referrers, a signature's manifest
//     and its envelope; all four together take 54 requests.
//   - throttled_test.go: a hundred such images in one request, also of registries
//     that answer 100 requests a second and 429 to the rest.
//   - requests_test.go: what registries are asked for, by one and by 64 at once.
//   - warm_test.go: answers from memory, beside an echo of the same bytes.
//   - memory_test.go: what a process holds after many distinct keys.
//   - restart_test.go: a cluster's worth of pods, all at once.
//   - faults_test.go and transient_test.go: registries that fail.
//
// Whatever does not depend on time is asserted by ordinary tests, in small.
// The sizes of the large experiments can be changed: GATEHOUSE_BENCH_IMAGES,
// _ABSENT, _PODS and _CONNECTIONS (of the pods to each process) are numbers,
// _ROUND (of BenchmarkWarm), _GIVE_UP (of BenchmarkRestart) and _AWAY (how long a
// fault of BenchmarkFaults lasts; a minute is 60s) are durations.
package bench
