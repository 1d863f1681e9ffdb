package templates

import (
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Pod is the part of a pod that the templates look at: its namespace and the
// images of its containers.
type Pod struct {
	Namespace                   string
	Containers, Init, Ephemeral []string
}

// PodOf is a pod of ordinary containers in the namespace "default".
func PodOf(images ...string) Pod { return Pod{Namespace: "default", Containers: images} }

// Request is the admission request by which the API server would ask.
func (p Pod) Request() (*admissionv1.AdmissionRequest, error) {
	object, err := json.Marshal(p.object())
	if err != nil {
		return nil, fmt.Errorf("encode the pod: %w", err)
	}
	return &admissionv1.AdmissionRequest{
		UID:       "00000000-0000-0000-0000-000000000001",
		Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		Name:      "pod",
		Namespace: p.Namespace,
		Operation: admissionv1.Create,
		Object:    runtime.RawExtension{Raw: object},
	}, nil
}

// Keys are what a template asks a provider about the pod, in its order, with
// an image named twice asked twice.
func (p Pod) Keys(template string) []string {
	var keys []string
	for _, images := range [][]string{p.Init, p.Ephemeral, p.Containers} {
		for _, image := range images {
			if template == MultiTenancy {
				image = "[" + p.Namespace + "]" + image
			}
			keys = append(keys, image)
		}
	}
	return keys
}

func (p Pod) object() *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: p.Namespace},
	}
	for i, image := range p.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: fmt.Sprintf("main-%d", i), Image: image})
	}
	for i, image := range p.Init {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: fmt.Sprintf("init-%d", i), Image: image})
	}
	for i, image := range p.Ephemeral {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: fmt.Sprintf("debug-%d", i), Image: image},
		})
	}
	return pod
}
