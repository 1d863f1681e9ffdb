package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// How numbers, durations and sizes are written. The JSON Schema has the same
// patterns.
const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
	bytesPattern    = `^[0-9]{1,19}(B|KiB|MiB|GiB|KB|MB|GB)?$`
	integerPattern  = `^(0|-?[1-9][0-9]*)$`
)

var (
	durationText = regexp.MustCompile(durationPattern)
	bytesText    = regexp.MustCompile(bytesPattern)
	integerText  = regexp.MustCompile(integerPattern)
)

// scalar fills a single value: bool, text, a number, a duration or a size.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, f field, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "expected "+expected(v.Type(), f)+", found "+describe(n), "")
		return
	}
	if message, hint := misfit(n, v.Type(), f); message != "" {
		d.fail(n, path, message, hint)
		return
	}
	if err := setScalar(v, f, n.Value); err != nil {
		d.fail(n, path, err.Error(), "")
	}
}

// misfit compares the kind that YAML gives a scalar with what is wanted, so
// that true is never a text and "5" never a number.
func misfit(n *yaml.Node, t reflect.Type, f field) (message, hint string) {
	number := n.Tag == "!!int" || n.Tag == "!!float"
	text := n.Tag == "!!str" || n.Tag == "!!timestamp"
	wrong := "expected " + expected(t, f) + ", found " + describe(n)
	switch {
	case t == typeOf[time.Duration]():
		if number {
			return wrong, fmt.Sprintf("a duration needs its unit: %ss or %[1]sms", shorten(n.Value))
		}
		if !text || !durationText.MatchString(n.Value) {
			return wrong, "the units are ms, s, m and h"
		}
	case f.unit == "bytes":
		if !bytesText.MatchString(n.Value) || (!text && n.Tag != "!!int") {
			return wrong, "the units are KiB, MiB and GiB, or KB, MB and GB"
		}
	case t.Kind() == reflect.Bool:
		if n.Tag != "!!bool" || (n.Value != "true" && n.Value != "false") {
			return wrong, "write true or false, without quotes"
		}
	case t.Kind() == reflect.String && f.hasFlags() && (f.isFlag(n.Value) || !text):
		if n.Tag != "!!bool" || !f.isFlag(n.Value) {
			return wrong, "true and false are written in lower case, without quotes"
		}
	case t.Kind() == reflect.String:
		if !text {
			return wrong, fmt.Sprintf("put it in quotes: %q", shorten(n.Value))
		}
	case isInteger(t):
		if n.Tag != "!!int" || !integerText.MatchString(n.Value) {
			return wrong, "write decimal digits, without quotes"
		}
	}
	return "", ""
}

func expected(t reflect.Type, f field) string {
	switch {
	case t == typeOf[time.Duration]():
		return "a duration such as 500ms"
	case f.unit == "bytes":
		return "a size such as 8MiB"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case isInteger(t):
		return "a whole number"
	case len(f.enum) > 0:
		return "one of: " + strings.Join(f.enum, ", ")
	default:
		return "text"
	}
}

func isInteger(t reflect.Type) bool {
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64
}

// setScalar parses text and sets v to it if the tags allow that.
func setScalar(v reflect.Value, f field, text string) error {
	switch t := v.Type(); {
	case t.Kind() == reflect.Bool:
		v.SetBool(text == "true")
		return nil
	case t.Kind() == reflect.String:
		v.SetString(text)
		return checkText(f, text)
	case isInteger(t):
		return setNumber(v, f, text)
	default:
		return fmt.Errorf("the Go type %s has no form in YAML", t)
	}
}

func setNumber(v reflect.Value, f field, text string) error {
	number, err := parseNumber(v.Type(), f.unit, text)
	if err != nil {
		return err
	}
	least, most, err := f.bounds(v.Type())
	switch {
	case err != nil:
		return err
	case number < least:
		return fmt.Errorf("%s is too small, at least %s", shorten(text), f.min)
	case number > most:
		return fmt.Errorf("%s is too large, at most %s", shorten(text), f.max)
	}
	return store(v, number, text)
}

// store sets an integer of any width and sign.
func store(v reflect.Value, number int64, text string) error {
	outside := fmt.Errorf("%s is out of range for %s", shorten(text), v.Kind())
	if v.CanInt() {
		if v.OverflowInt(number) {
			return outside
		}
		v.SetInt(number)
		return nil
	}
	if number < 0 || v.OverflowUint(uint64(number)) {
		return outside
	}
	v.SetUint(uint64(number))
	return nil
}

// parseNumber reads a number in the way of its type: nanoseconds of a
// duration, bytes of a size, or an integer.
func parseNumber(t reflect.Type, unit, text string) (int64, error) {
	switch {
	case t == typeOf[time.Duration]():
		duration, err := time.ParseDuration(text)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration of at most 290 years", shorten(text))
		}
		return int64(duration), nil
	case unit == "bytes":
		return parseBytes(text)
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is out of range", shorten(text))
	}
	return number, nil
}

func parseBytes(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGi")
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is out of range", shorten(text))
	}
	scale := map[string]int64{
		"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 1e3, "MB": 1e6, "GB": 1e9,
	}[text[len(digits):]]
	if scale == 0 {
		return 0, fmt.Errorf("%s is not a size", shorten(text))
	}
	if number > math.MaxInt64/scale {
		return 0, fmt.Errorf("%s is out of range", shorten(text))
	}
	return number * scale, nil
}

func checkText(f field, text string) error {
	switch {
	case text == "":
		return errors.New("is empty; leave it out if it is not meant")
	case len(f.enum) > 0 && !slices.Contains(f.enum, text):
		return fmt.Errorf("%s is not one of: %s", quote(text), strings.Join(f.enum, ", "))
	}
	return checkPattern(f, text)
}

func checkPattern(f field, text string) error {
	if f.pattern == "" {
		return nil
	}
	matches, err := regexp.MatchString(f.pattern, text)
	if err == nil && !matches {
		err = fmt.Errorf("%s does not match %s", quote(text), f.pattern)
	}
	return err
}

// text hands a scalar to a type that parses itself.
func (d *decoder) text(n *yaml.Node, v reflect.Value, f field, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "expected text, found "+describe(n), "")
		return
	}
	err := setText(v, n.Value)
	if err == nil {
		err = checkPattern(f, n.Value)
	}
	if err != nil {
		d.fail(n, path, err.Error(), "")
	}
}

func setText(v reflect.Value, text string) error {
	target, _ := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	return target.UnmarshalText([]byte(text))
}

// UnmarshalText reads a date, which ends with that day in UTC, or a moment.
func (u *Until) UnmarshalText(text []byte) error {
	if day, err := time.Parse(time.DateOnly, string(text)); err == nil {
		u.Time = day.AddDate(0, 0, 1)
		return nil
	}
	moment, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%s is neither a date (2027-01-31) nor a moment (2027-01-31T12:00:00Z)", quote(string(text)))
	}
	u.Time = moment.UTC()
	return nil
}

// shorten bounds a number's text in a message.
func shorten(text string) string {
	const most = 32
	if len(text) <= most {
		return text
	}
	return text[:most] + "..."
}

// ParseBytes reads a size as the file writes it: "10GiB", "512KB" or "1048576".
func ParseBytes(text string) (int64, error) {
	if matches, err := regexp.MatchString(bytesPattern, text); err != nil || !matches {
		return 0, fmt.Errorf("%s is not a size such as 8MiB", quote(text))
	}
	return parseBytes(text)
}
