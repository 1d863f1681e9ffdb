package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Client is a [Keeper] that asks a serving process.
type Client struct {
	http  *http.Client
	token string
}

var _ Keeper = (*Client)(nil)

// NewClient makes a client of the process that listens on the network "unix" or
// "tcp" at the address. The token may be empty. No proxy stands between.
func NewClient(network, address, token string) *Client {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return &Client{token: token, http: &http.Client{Transport: &http.Transport{
		DisableCompression: true, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}}
}

// send asks and checks that it was understood. The caller closes the body.
func (c *Client) send(ctx context.Context, path string, body io.Reader, asked string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gatehouse"+path, body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if asked != "" {
		req.Header.Set(headerAsked, asked)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask gatehouse: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	_ = resp.Body.Close() // it is an error already
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("ask gatehouse: %w", ErrRefused)
	case err != nil:
		return nil, fmt.Errorf("ask gatehouse: %w", err)
	default:
		return nil, fmt.Errorf("ask gatehouse: status %d: %s", resp.StatusCode, strings.Map(printable, string(text)))
	}
}

// told is a line as it is read.
type told struct {
	Item     *cache.Item     `json:"item"`
	Progress *progress       `json:"progress"`
	Result   json.RawMessage `json:"result"`
	Error    string          `json:"error"`
}

// ask sends a request and reads lines until the last, whose result is put into
// what result points to.
func (c *Client) ask(ctx context.Context, path string, req, result any, item func(cache.Item), shown func(done, total int64)) error {
	text, err := json.Marshal(req)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, path, bytes.NewReader(text), "")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or an error already
	return lines(resp.Body, result, item, shown)
}

func lines(body io.Reader, result any, item func(cache.Item), shown func(done, total int64)) error {
	scanner := bufio.NewScanner(body)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
	for scanner.Scan() {
		var l told
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			return errors.New("what answers is no gatehouse of this version")
		}
		switch {
		case l.Item != nil && item != nil:
			item(*l.Item)
		case l.Progress != nil && shown != nil:
			shown(l.Progress.Done, l.Progress.Total)
		case l.Error != "" || l.Result != nil:
			return conclude(l, result)
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return errors.New("the answer broke off: see the log of gatehouse")
}

func conclude(l told, result any) error {
	var err error
	if l.Result != nil {
		err = json.Unmarshal(l.Result, result)
	}
	if l.Error != "" {
		return errors.New(l.Error)
	}
	return err
}

// Items implements [Viewer].
func (c *Client) Items(ctx context.Context, req ItemsRequest, each func(cache.Item)) error {
	return c.ask(ctx, pathItems, req, &struct{}{}, each, nil)
}

// Stats implements [Viewer].
func (c *Client) Stats(ctx context.Context) (stats cache.Stats, err error) {
	err = c.ask(ctx, pathStats, struct{}{}, &stats, nil, nil)
	return stats, err
}

// Prune implements [Cleaner].
func (c *Client) Prune(ctx context.Context, req PruneRequest, each func(cache.Item)) (pruned cache.Pruned, err error) {
	err = c.ask(ctx, pathPrune, req, &pruned, each, nil)
	return pruned, err
}

// Scrub implements [Cleaner].
func (c *Client) Scrub(ctx context.Context, shown func(done, total int64)) (scrubbed cache.Scrubbed, err error) {
	err = c.ask(ctx, pathScrub, struct{}{}, &scrubbed, nil, shown)
	return scrubbed, err
}

// Pins implements [Pinner].
func (c *Client) Pins(ctx context.Context) (pins []cache.Pin, err error) {
	err = c.ask(ctx, pathPins, struct{}{}, &pins, nil, nil)
	return pins, err
}

// Pin implements [Pinner].
func (c *Client) Pin(ctx context.Context, pin cache.Pin) error {
	return c.ask(ctx, pathPin, pin, &struct{}{}, nil, nil)
}

// Unpin implements [Pinner].
func (c *Client) Unpin(ctx context.Context, pin cache.Pin) (was bool, err error) {
	err = c.ask(ctx, pathUnpin, pin, &was, nil, nil)
	return was, err
}

// Load implements [Mover].
func (c *Client) Load(ctx context.Context, req LoadRequest, archive io.Reader, shown func(done, total int64)) (loaded Loaded, err error) {
	text, err := json.Marshal(req)
	if err != nil {
		return loaded, err
	}
	resp, err := c.send(ctx, pathLoad, archive, string(text))
	if err != nil {
		return loaded, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or an error already
	err = lines(resp.Body, &loaded, nil, shown)
	return loaded, err
}

// Export implements [Mover].
func (c *Client) Export(ctx context.Context, req ExportRequest, archive io.Writer) error {
	text, err := json.Marshal(req)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, pathExport, bytes.NewReader(text), "")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or an error already
	if _, err := io.Copy(archive, resp.Body); err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	if text := resp.Trailer.Get(headerError); text != "" {
		return errors.New(text)
	}
	if resp.Trailer.Get(headerWhole) == "" {
		return errors.New("the archive broke off: see the log of gatehouse")
	}
	return nil
}
