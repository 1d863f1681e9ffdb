// Package cluster is where the rotation finds its Secret and its Providers: a
// Kubernetes API server, reached with rights by resource name alone.
//
// Nothing is listed and no informer is kept: a list or a watch is allowed by a rule
// with resourceNames only if its field selector names one object, and one informer
// cannot have several names. So each object is read by GET, written by a
// patch on the version that was read, and watched by a request of its own
// (watch.go), which only says that it is time to look again. Without the right
// to watch all works too, up to a resync later.
package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// manager is the field manager of what is written.
const manager = "gatehouse-rotator"

// callTimeout bounds each read and each write.
const callTimeout = 10 * time.Second

var (
	secrets   = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}                                             //nolint:gochecknoglobals // the name of a resource, never changed
	providers = schema.GroupVersionResource{Group: "externaldata.gatekeeper.sh", Version: "v1beta1", Resource: "providers"} //nolint:gochecknoglobals // the name of a resource, never changed
)

// Cluster reaches one Secret and the Providers. It is safe for concurrent use.
type Cluster struct {
	secrets   dynamic.ResourceInterface
	providers dynamic.ResourceInterface
	secret    string
}

var _ rotation.Cluster = (*Cluster)(nil)

// New reaches the Secret of a name in a namespace, with the credentials of config.
func New(config *rest.Config, namespace, secret string) (*Cluster, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &Cluster{secrets: client.Resource(secrets).Namespace(namespace), providers: client.Resource(providers), secret: secret}, nil
}

// Secret reads the Secret.
func (c *Cluster) Secret(ctx context.Context) (rotation.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object, err := c.secrets.Get(ctx, c.secret, metav1.GetOptions{})
	if err != nil {
		return rotation.Secret{}, told(err)
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return rotation.Secret{}, err
	}
	var secret corev1.Secret
	if err := json.Unmarshal(text, &secret); err != nil {
		return rotation.Secret{}, err
	}
	return rotation.Secret{Version: secret.ResourceVersion, Data: secret.Data}, nil
}

// SetSecret sets keys of the Secret, if it still has the version.
func (c *Cluster) SetSecret(ctx context.Context, version string, data map[string][]byte) error {
	return patch(ctx, c.secrets, c.secret, version, "data", data)
}

// Provider reads a Provider.
func (c *Cluster) Provider(ctx context.Context, name string) (rotation.Provider, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object, err := c.providers.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return rotation.Provider{}, told(err)
	}
	bundle, _, err := unstructured.NestedString(object.Object, "spec", "caBundle")
	if err != nil {
		return rotation.Provider{}, err
	}
	return rotation.Provider{Name: name, Version: object.GetResourceVersion(), Bundle: bundle}, nil
}

// Trust sets a Provider's bundle, if it still has the version.
func (c *Cluster) Trust(ctx context.Context, p rotation.Provider, bundle string) error {
	return patch(ctx, c.providers, p.Name, p.Version, "spec", map[string]string{"caBundle": bundle})
}

// patch merges value into a field of an object of a version. A merge patch leaves
// alone what it does not name: labels, other keys, a Provider's URL.
func patch(ctx context.Context, in dynamic.ResourceInterface, name, version, field string, value any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	text, err := json.Marshal(map[string]any{"metadata": map[string]string{"resourceVersion": version}, field: value})
	if err != nil {
		return err
	}
	_, err = in.Patch(ctx, name, types.MergePatchType, text, metav1.PatchOptions{FieldManager: manager})
	return told(err)
}

// told is an error of the API server as the rotation tells them apart.
func told(err error) error {
	switch {
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: %w", rotation.ErrConflict, err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", rotation.ErrNotFound, err)
	default:
		return err
	}
}
