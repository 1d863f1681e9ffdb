package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// maxImageCell cuts names of images in tables.
const maxImageCell = 72

func listItems(ctx context.Context, std stdio, at *cacheFlags, k control.Keeper, req control.ItemsRequest) error {
	var items []cache.Item
	if err := k.Items(ctx, req, func(i cache.Item) { items = append(items, i) }); err != nil {
		return err
	}
	slices.SortFunc(items, func(a, b cache.Item) int {
		if c := b.Pulled.Compare(a.Pulled); c != 0 {
			return c
		}
		return strings.Compare(itemName(a), itemName(b))
	})
	if at.output == "json" {
		return showJSON(std.out, append([]cache.Item{}, items...))
	}
	if len(items) == 0 {
		_, err := fmt.Fprintln(std.out, "nothing is held")
		return err
	}
	_, err := fmt.Fprintln(std.out, itemTable(items, time.Now()))
	return err
}

func itemTable(items []cache.Item, now time.Time) string {
	headers := []string{"IMAGE", "KIND", "DIGEST", "SIZE", "CAME IN", "PULLED"}
	marked := slices.ContainsFunc(items, func(i cache.Item) bool { return marks(i) != "" })
	if marked {
		headers = append(headers, "")
	}
	t := columns(headers...)
	for _, i := range items {
		cells := []string{
			executor.Clip(executor.OneLine(itemName(i)), maxImageCell), i.Kind, short(i.Digest.String()),
			size(bytesOf(i.Total)), ago(now, i.Created), ago(now, i.Pulled),
		}
		if marked {
			cells = append(cells, marks(i))
		}
		t.Row(cells...)
	}
	return t.String()
}

func columns(headers ...string) *table.Table {
	return table.New().Border(lipgloss.NormalBorder()).Headers(headers...).
		StyleFunc(func(int, int) lipgloss.Style { return lipgloss.NewStyle().Padding(0, 1) })
}

// itemName is a repository with its tags, or with its digest if it has none.
func itemName(i cache.Item) string {
	name := i.Scope.Registry + "/" + i.Scope.Repository
	switch {
	case i.Scope.Registry == "":
		name = "(of no repository)"
	case len(i.Tags) > 0:
		name += ":" + strings.Join(i.Tags, ",")
	default:
		name += "@" + short(i.Digest.String())
	}
	return name
}

// short is the beginning of a digest, as people compare it.
func short(digest string) string {
	const hex = 12
	if at := strings.IndexByte(digest, ':'); at >= 0 && len(digest) > at+1+hex {
		return digest[:at+1+hex]
	}
	return digest
}

func marks(i cache.Item) string {
	var all []string
	if i.Pinned {
		all = append(all, "pinned")
	}
	if i.Unverified {
		all = append(all, "unverified")
	}
	return strings.Join(all, ", ")
}

func ago(now, then time.Time) string {
	if then.IsZero() || then.Unix() <= 0 {
		return "-"
	}
	if now.Sub(then) < time.Minute { // it is noted by the minute
		return "just now"
	}
	return coarse(now.Sub(then).Truncate(time.Minute)) + " ago"
}

func bytesOf(n int64) uint64 { return uint64(max(n, 0)) }

func showJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func showStats(out io.Writer, output string, s cache.Stats) error {
	if output == "json" {
		return showJSON(out, s)
	}
	var b strings.Builder
	state := s.State
	if s.Problem != "" {
		state += ": " + executor.OneLine(s.Problem)
	}
	bound := ""
	if s.MaxBytes > 0 {
		bound = fmt.Sprintf(" of %s (%d%%)", size(bytesOf(s.MaxBytes)), s.Bytes*100/s.MaxBytes)
	}
	start := "after a clean end"
	if !s.Clean {
		start = "new, or after an unclean end"
	}
	fmt.Fprintf(&b, "state        %s\n", state)
	fmt.Fprintf(&b, "content      %s%s; %s of the file system are free\n", size(bytesOf(s.Bytes)), bound, size(bytesOf(s.FreeBytes)))
	fmt.Fprintf(&b, "objects      %d manifests, %d blobs, %d lists of referrers; %d pins\n", s.Manifests, s.Blobs, s.Lists, s.Pins)
	fmt.Fprintf(&b, "memory       %s as a replica, %s on their way to the disk\n", size(bytesOf(s.Replica)), size(bytesOf(s.Unwritten)))
	fmt.Fprintf(&b, "damage       %d not hashed since the start, %d in quarantine\n", s.Unverified, s.Quarantined)
	fmt.Fprintf(&b, "pulls        %d under way\n", s.Pulls)
	fmt.Fprintf(&b, "started      %s, %s\n", s.Started.UTC().Format(time.RFC3339), start)
	_, err := io.WriteString(out, b.String())
	return err
}

// prune drops, and shows what was dropped.
func prune(ctx context.Context, std stdio, at *cacheFlags, k control.Keeper, req control.PruneRequest) error {
	items := []cache.Item{}
	pruned, err := k.Prune(ctx, req, func(i cache.Item) { items = append(items, i) })
	if err != nil {
		return err
	}
	if at.output == "json" {
		return showJSON(std.out, struct {
			cache.Pruned
			Items []cache.Item `json:"items"`
		}{pruned, items})
	}
	if len(items) > 0 {
		fmt.Fprintln(std.out, itemTable(items, time.Now()))
	}
	word := "dropped"
	if pruned.DryRun {
		word = "would drop"
	}
	_, err = fmt.Fprintf(std.out, "%s %d images, %d objects in all, %s\n", word, pruned.Roots, pruned.Objects, size(bytesOf(pruned.Bytes)))
	if err == nil && pruned.Kept > 0 {
		_, err = fmt.Fprintf(std.out, "kept %d that are pinned, being read, or were pulled a moment ago\n", pruned.Kept)
	}
	return err
}

func showPins(ctx context.Context, std stdio, at *cacheFlags, k control.Keeper) error {
	pins, err := k.Pins(ctx)
	if err != nil {
		return err
	}
	if at.output == "json" {
		return showJSON(std.out, append([]cache.Pin{}, pins...))
	}
	for _, pin := range pins {
		fmt.Fprintln(std.out, pinName(pin))
	}
	if len(pins) == 0 {
		fmt.Fprintln(std.out, "nothing is pinned")
	}
	return nil
}

func pinName(pin cache.Pin) string {
	name := pin.Registry + "/" + pin.Repository
	if pin.Tag != "" {
		return name + ":" + pin.Tag
	}
	return name + "@" + pin.Digest.String()
}

func showScrubbed(out io.Writer, output string, s cache.Scrubbed) error {
	var err error
	if output == "json" {
		err = showJSON(out, s)
	} else {
		_, err = fmt.Fprintf(out, "hashed %d objects, %s: %d were damaged and are in quarantine, %d were missing, %d unknown\n",
			s.Objects, size(bytesOf(s.Bytes)), s.Quarantined, s.Missing, s.Foreign)
	}
	if err == nil && s.Quarantined > 0 {
		return exitError(exitDenied)
	}
	return err
}

// load takes in an archive: a file, a folder, or standard input.
func load(ctx context.Context, std stdio, at *cacheFlags, k control.Keeper, req control.LoadRequest, from string) error {
	archive, err := openArchive(std, from)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }() // it was only read
	bar := newBar(std, "loading")
	loaded, err := k.Load(ctx, req, archive, bar.show)
	bar.end()
	if err != nil {
		return err
	}
	if at.output == "json" {
		return showJSON(std.out, loaded)
	}
	for _, image := range loaded.Images {
		fmt.Fprintln(std.out, executor.OneLine(image))
	}
	_, err = fmt.Fprintf(std.out, "loaded %d images, %s\n", len(loaded.Images), size(bytesOf(loaded.Bytes)))
	return err
}

func openArchive(std stdio, from string) (io.ReadCloser, error) {
	if from == "-" {
		return io.NopCloser(std.in), nil
	}
	info, err := os.Stat(from)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return packed(from)
	}
	return os.Open(from)
}

// packed reads a folder as a tar. What leads out of it is not followed.
func packed(directory string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	reader, writer := io.Pipe()
	go func() { // it ends with the reader
		defer func() { _ = root.Close() }() // it was only read
		out := tar.NewWriter(writer)
		err := out.AddFS(regular{root.FS()})
		if err == nil {
			err = out.Close()
		}
		writer.CloseWithError(err)
	}()
	return reader, nil
}

// regular is a file system without what is neither file nor folder.
type regular struct{ fs.FS }

// ReadDir implements [fs.ReadDirFS].
func (r regular) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(r.FS, name)
	return slices.DeleteFunc(all, func(e fs.DirEntry) bool { return !e.IsDir() && !e.Type().IsRegular() }), err
}

// bar shows progress of long work where somebody looks.
type bar struct {
	bars *mpb.Progress
	bar  *mpb.Bar
	done int64
}

// newBar is a bar on the error output, if that is a terminal.
func newBar(std stdio, what string) *bar {
	if !terminal(std.err) {
		return &bar{}
	}
	bars := mpb.New(mpb.WithOutput(std.err), mpb.WithWidth(64))
	one := bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f of % .1f"), decor.Percentage(decor.WCSyncSpace)))
	return &bar{bars: bars, bar: one}
}

// show tells how much is done; a total of 0 or less is not known.
func (b *bar) show(done, total int64) {
	if b.bar == nil {
		return
	}
	b.bar.SetTotal(max(total, done+1), false)
	b.bar.SetCurrent(done)
}

// Write counts bytes that pass.
func (b *bar) Write(p []byte) (int, error) {
	b.done += int64(len(p))
	b.show(b.done, 0)
	return len(p), nil
}

func (b *bar) end() {
	if b.bar == nil {
		return
	}
	b.bar.Abort(true)
	b.bars.Wait()
}

func terminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
