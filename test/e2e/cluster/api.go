package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// API asks the API server as a user, without what kubectl adds in time and in
// words. It is safe for concurrent use.
type API struct {
	client *http.Client
	server string
}

// Answer is an answer of the API server.
type Answer struct {
	// Code is the status of HTTP.
	Code int
	// Body is the object, or the Status, as it came.
	Body []byte
	// Warnings are the headers of that name, one for each warning.
	Warnings []string
	// Elapsed is from before the request to the body's last byte.
	Elapsed time.Duration
}

// OK says that the request succeeded.
func (a Answer) OK() bool { return a.Code >= 200 && a.Code < 300 }

// Message is what the API server said if the request failed.
func (a Answer) Message() string {
	if a.OK() {
		return ""
	}
	var status metav1.Status
	if json.Unmarshal(a.Body, &status) != nil || status.Message == "" {
		return fmt.Sprintf("status %d: %.300s", a.Code, a.Body)
	}
	return status.Message
}

// API is for an administrator, over connections of its own; Close ends them.
func (c *Cluster) API() (*API, error) {
	client, err := c.client(filepath.Join(c.dir, "probe"))
	if err != nil {
		return nil, err
	}
	client.Timeout = time.Minute
	return &API{client: client, server: c.server}, nil
}

// Close closes idle connections.
func (a *API) Close() { a.client.CloseIdleConnections() }

// Do sends an object, in JSON, or nothing if it is nil. A patch is a merge patch.
func (a *API) Do(ctx context.Context, method, path string, object any) (Answer, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return Answer{}, err
	}
	if object == nil {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	start := time.Now()
	resp, err := a.client.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	answer := Answer{Code: resp.StatusCode, Warnings: resp.Header.Values("Warning")}
	if answer.Body, err = io.ReadAll(resp.Body); err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	answer.Elapsed = time.Since(start)
	return answer, nil
}
