// Package monitoring holds the tests of what the chart ships for Prometheus and
// Grafana: alert rules and a dashboard.
//
//   - alerts_test.go checks and tests the rules with Prometheus' own promtool, over
//     alerts_test.yaml, in which each alert fires once and is quiet once.
//   - names_test.go holds the names and labels in rules and dashboard to
//     docs/metrics.md, and each alert to its section in docs/operate.md.
//   - dashboard_test.go reads the dashboard.
//
// promtool is the tool of the module in tools, so that its dependencies are not
// ours. Most of them read the clouds' inventories and are left out by a build tag.
package monitoring
