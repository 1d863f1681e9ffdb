package credential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// counting answers with the number of the question, after a second.
type counting struct {
	asked atomic.Int64
	life  time.Duration // of what it answers; 0 does not say
	fails atomic.Bool
	hangs atomic.Bool
}

func (c *counting) find(ctx context.Context, host string) (Credential, error) {
	n := c.asked.Add(1)
	wait := time.Second
	if c.hangs.Load() {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return Credential{}, errors.New("gone with a text of its own")
	}
	if c.fails.Load() {
		return Credential{}, errors.New("broken")
	}
	cred := Credential{Password: fmt.Sprintf("%s %d", host, n)}
	if c.life != 0 {
		cred.Until = time.Now().Add(c.life)
	}
	return cred, nil
}

func keeper(t *testing.T, c *counting) (k *Keeper, closeTable func()) {
	t.Helper()
	table, err := NewTable(t.Context(), []Entry{{Type: "x", Hosts: []string{"*.example"}}}, map[string]Kind{"x": kindOf(&fake{find: c.find})}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return table.For("a.example"), table.Close
}

// want gets, and checks what came.
func want(t *testing.T, k *Keeper, host, password string, old bool) *Held {
	t.Helper()
	cred, gotOld, err := k.Get(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	if cred.Password != password || gotOld != old {
		t.Errorf("%q, old %t; want %q, %t", cred.Password, gotOld, password, old)
	}
	return cred
}

func TestOneFlightForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		k, closeTable := keeper(t, c)
		defer closeTable()
		var group errgroup.Group
		for range 100 {
			for _, host := range []string{"a.example", "b.example"} {
				group.Go(func() error {
					cred, _, err := k.Get(t.Context(), host)
					if err == nil && !strings.HasPrefix(cred.Password, host) {
						err = errors.New("the credential of another host")
					}
					return err
				})
			}
		}
		if err := group.Wait(); err != nil || c.asked.Load() != 2 {
			t.Errorf("%v; asked %d times, want once for each host", err, c.asked.Load())
		}
	})
}

// What is in use is renewed ahead of its end, and nobody waits for it; what is
// not in use ends.
func TestRenewedAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{life: time.Hour}
		k, closeTable := keeper(t, c)
		defer closeTable()
		first := want(t, k, "a.example", "a.example 1", false)
		// An hour from the answer, less a minute of leeway; four fifths of it
		// are quiet.
		if left := time.Until(first.Until); left < 58*time.Minute || left > 59*time.Minute {
			t.Errorf("it is used for %s", left)
		}
		time.Sleep(45 * time.Minute)
		want(t, k, "a.example", "a.example 1", true)
		synctest.Wait()
		if c.asked.Load() != 1 {
			t.Error("renewed too early")
		}
		time.Sleep(5 * time.Minute)
		begun := time.Now()
		for range 10 {
			want(t, k, "a.example", "a.example 1", true)
		}
		if time.Since(begun) != 0 {
			t.Error("somebody waited")
		}
		time.Sleep(2 * time.Second)
		want(t, k, "a.example", "a.example 2", true)
		if c.asked.Load() != 2 {
			t.Errorf("asked %d times", c.asked.Load())
		}
		time.Sleep(2 * time.Hour)
		want(t, k, "a.example", "a.example 3", false)
	})
}

// A renewal that fails leaves what is held until that ends; then it is an
// error.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		k, closeTable := keeper(t, c)
		defer closeTable()
		want(t, k, "a.example", "a.example 1", false)
		c.fails.Store(true)
		time.Sleep(defaultLife*4/5 + time.Second)
		for range 20 {
			want(t, k, "a.example", "a.example 1", true)
			time.Sleep(2 * time.Second)
		}
		if n := c.asked.Load(); n != 3 {
			t.Errorf("asked %d times in 40 s, want once in 30 s", n)
		}
		time.Sleep(time.Minute)
		if _, _, err := k.Get(t.Context(), "a.example"); !errors.Is(err, referrerstore.ErrAuthDenied) {
			t.Errorf("%v, want ErrAuthDenied", err)
		}
		c.fails.Store(false)
		if cred, _, err := k.Get(t.Context(), "a.example"); err != nil || cred.Password == "a.example 1" {
			t.Errorf("an error is kept, or what has ended is used: %v", err)
		}
	})
}

func TestForget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{life: 12 * time.Hour}
		k, closeTable := keeper(t, c)
		defer closeTable()
		first := want(t, k, "a.example", "a.example 1", false)
		want(t, k, "b.example", "b.example 2", false)
		k.Forget(first)
		second := want(t, k, "a.example", "a.example 3", false)
		k.Forget(first) // another has taken its place
		want(t, k, "b.example", "b.example 2", true)
		// Whoever is refused again at once is not let to ask again and again.
		for range 5 {
			k.Forget(second)
			want(t, k, "a.example", "a.example 3", false)
		}
		time.Sleep(forgetPause)
		want(t, k, "a.example", "a.example 3", true)
		k.Forget(second)
		want(t, k, "a.example", "a.example 4", false)
		k.Forget(nil)
		(*Keeper)(nil).Forget(second)
	})
}

// A source that does not answer is given up; a caller that gives up leaves the
// others alone.
func TestTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		k, closeTable := keeper(t, c)
		defer closeTable()
		c.hangs.Store(true)
		begun := time.Now()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := k.Get(short, "a.example"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the caller's deadline", err)
		}
		_, _, err := k.Get(t.Context(), "a.example")
		if !errors.Is(err, referrerstore.ErrAuthDenied) || !errors.Is(err, errTooLate) || time.Since(begun) != findTimeout {
			t.Errorf("%v after %s, want ErrAuthDenied after 10s", err, time.Since(begun))
		}
		if c.asked.Load() != 1 {
			t.Errorf("asked %d times", c.asked.Load())
		}
	})
}

func TestEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{life: -time.Hour}
		k, closeTable := keeper(t, c)
		defer closeTable()
		if _, _, err := k.Get(t.Context(), "a.example"); !errors.Is(err, referrerstore.ErrAuthDenied) || !strings.Contains(err.Error(), "ended already") {
			t.Errorf("%v, want ErrAuthDenied", err)
		}
		c.life = 1000 * time.Hour
		if cred := want(t, k, "a.example", "a.example 2", false); time.Until(cred.Until) > maxLife {
			t.Errorf("it is used until %s", cred.Until)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		k, closeTable := keeper(t, c)
		want(t, k, "a.example", "a.example 1", false)
		c.hangs.Store(true)
		time.Sleep(defaultLife / 10 * 9)
		want(t, k, "a.example", "a.example 1", true) // begins a renewal
		results := make(chan error)
		go func() {
			_, _, err := k.Get(t.Context(), "b.example")
			results <- err
		}()
		synctest.Wait()
		go closeTable()
		if err := <-results; !errors.Is(err, referrerstore.ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		synctest.Wait()
		want(t, k, "a.example", "a.example 1", true) // kept, and not renewed
		if _, _, err := k.Get(t.Context(), "c.example"); err == nil {
			t.Error("a new question after the end")
		}
	})
}

func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, closeTable := keeper(t, &counting{})
		defer closeTable()
		for i := range maxKept + 10 {
			host := fmt.Sprintf("host%d.example", i)
			want(t, k, host, fmt.Sprintf("%s %d", host, i+1), false)
		}
		if len(k.kept) > maxKept {
			t.Errorf("%d are kept", len(k.kept))
		}
	})
}
