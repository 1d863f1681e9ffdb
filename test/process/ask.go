package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
)

// maxAnswer bounds an answer that is read.
const maxAnswer = 64 << 20

// Client asks as Gatekeeper does, over a transport of its own.
type Client struct {
	// HTTP sends; nil is a client for one request, which offers to keep its
	// connection as Gatekeeper's does, and then closes it.
	HTTP *http.Client
	URL  string
}

// Answer is an answer with the time that it took.
type Answer struct {
	// Status is that of HTTP.
	Status int
	// Header is the answer's header.
	Header http.Header
	// Body is the answer as it came.
	Body []byte
	// Elapsed is from before the connection is made or taken to the body's
	// last byte.
	Elapsed time.Duration
	// SystemError is Gatekeeper's field of the name.
	SystemError string
	// Items are the verdicts in the order of the answer.
	Items []Item
}

// Item is the verdict on one key.
type Item struct {
	Key   string `json:"key"`
	Value Value  `json:"value"`
	Error string `json:"error"`
}

// Value is the part of a verdict that tests look at.
type Value struct {
	IsSuccess bool     `json:"isSuccess"`
	Reports   []Report `json:"verifierReports"`
	// Held is set where what the registry said before stood in for it.
	Held *Held `json:"held"`
}

// Held says how old evidence is, and why it was gone by.
type Held struct {
	AgeSeconds int64  `json:"ageSeconds"`
	Reason     string `json:"reason"`
}

// Report is one report of a verdict.
type Report struct {
	IsSuccess   bool              `json:"isSuccess"`
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	Message     string            `json:"message"`
	ErrorReason string            `json:"errorReason"`
	Extensions  map[string]string `json:"extensions"`
}

// Code is the code of a denial, empty if there is none.
func (v Value) Code() string {
	if v.IsSuccess || len(v.Reports) == 0 {
		return ""
	}
	return v.Reports[0].ErrorReason
}

// Item finds the verdict on a key; false says that the answer has none.
func (a Answer) Item(key string) (Item, bool) {
	i := slices.IndexFunc(a.Items, func(item Item) bool { return item.Key == key })
	if i < 0 {
		return Item{}, false
	}
	return a.Items[i], true
}

// Ask asks the process about images over a connection of its own.
func (p *Process) Ask(ctx context.Context, keys ...string) (Answer, error) {
	return Client{URL: p.VerifyURL()}.Ask(ctx, keys...)
}

// Post sends a body to the process as it is.
func (p *Process) Post(ctx context.Context, body io.Reader) (Answer, error) {
	return Client{URL: p.VerifyURL()}.Post(ctx, body)
}

// Ask asks about images.
func (c Client) Ask(ctx context.Context, keys ...string) (Answer, error) {
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		return Answer{}, fmt.Errorf("ask: %w", err)
	}
	return c.Post(ctx, bytes.NewReader(body))
}

// Post sends a body as it is. A body that is no provider response is an error,
// beside what is known of the answer.
func (c Client) Post(ctx context.Context, body io.Reader) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, body)
	if err != nil {
		return Answer{}, fmt.Errorf("ask: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return c.Do(req)
}

// Do sends a request.
func (c Client) Do(req *http.Request) (answer Answer, err error) {
	client := c.HTTP
	if client == nil {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		client = &http.Client{Transport: transport}
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return Answer{Elapsed: time.Since(start)}, fmt.Errorf("ask: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer.Status, answer.Header = resp.StatusCode, resp.Header
	answer.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	answer.Elapsed = time.Since(start)
	if err != nil {
		return answer, fmt.Errorf("read the answer: %w", err)
	}
	return answer, answer.decode()
}

func (a *Answer) decode() error {
	var response struct {
		Kind     string `json:"kind"`
		Response struct {
			Items       []Item `json:"items"`
			SystemError string `json:"systemError"`
		} `json:"response"`
	}
	if err := json.Unmarshal(a.Body, &response); err != nil {
		return fmt.Errorf("the answer with status %d: %w", a.Status, err)
	}
	if response.Kind != string(externaldata.ProviderResponseKind) {
		return fmt.Errorf("the answer with status %d is of kind %q", a.Status, response.Kind)
	}
	a.Items, a.SystemError = response.Response.Items, response.Response.SystemError
	return nil
}
