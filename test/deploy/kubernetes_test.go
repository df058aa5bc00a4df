package deploy

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// The types below have the fields of Kubernetes' objects that the chart uses, and no others: a name that is misspelt
// in a template is an error. What users put in as it is (affinity and the like) is not looked into.

type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
}

type metadata struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

type free = map[string]any

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type deployment struct {
	object `yaml:",inline"`
	Spec   struct {
		Replicas *int
		Strategy struct {
			Type          string
			RollingUpdate *struct {
				MaxSurge       int `yaml:"maxSurge"`
				MaxUnavailable int `yaml:"maxUnavailable"`
			} `yaml:"rollingUpdate"`
		}
		Selector selector
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
	}
}

type pod struct {
	object `yaml:",inline"`
	Spec   podSpec
}

type podSpec struct {
	ImagePullSecrets   []struct{ Name string } `yaml:"imagePullSecrets"`
	ServiceAccountName string                  `yaml:"serviceAccountName"`
	AutomountToken     *bool                   `yaml:"automountServiceAccountToken"`
	EnableServiceLinks *bool                   `yaml:"enableServiceLinks"`
	GracePeriod        int                     `yaml:"terminationGracePeriodSeconds"`
	RestartPolicy      string                  `yaml:"restartPolicy"`
	PriorityClassName  string                  `yaml:"priorityClassName"`
	SecurityContext    podSecurity             `yaml:"securityContext"`
	Containers         []container
	Volumes            []volume
	TopologySpread     []topologySpread  `yaml:"topologySpreadConstraints"`
	NodeSelector       map[string]string `yaml:"nodeSelector"`
	Affinity           free
	Tolerations        []free
}

type podSecurity struct {
	RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
	RunAsUser      int                   `yaml:"runAsUser"`
	RunAsGroup     int                   `yaml:"runAsGroup"`
	FSGroup        int                   `yaml:"fsGroup"`
	FSGroupChange  string                `yaml:"fsGroupChangePolicy"`
	SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
}

type container struct {
	Name, Image     string
	ImagePullPolicy string `yaml:"imagePullPolicy"`
	Args            []string
	Env             []struct{ Name, Value string }
	Ports           []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	StartupProbe   *probe `yaml:"startupProbe"`
	LivenessProbe  *probe `yaml:"livenessProbe"`
	ReadinessProbe *probe `yaml:"readinessProbe"`
	Lifecycle      struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	Resources struct{ Requests, Limits map[string]string }
	Security  struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet          struct{ Path, Port, Scheme string } `yaml:"httpGet"`
	PeriodSeconds    int                                 `yaml:"periodSeconds"`
	TimeoutSeconds   int                                 `yaml:"timeoutSeconds"`
	FailureThreshold int                                 `yaml:"failureThreshold"`
}

type volume struct {
	Name      string
	ConfigMap *struct{ Name string } `yaml:"configMap"`
	EmptyDir  *struct{}              `yaml:"emptyDir"`
	Secret    *struct {
		SecretName  string `yaml:"secretName"`
		DefaultMode int    `yaml:"defaultMode"`
		Items       []struct{ Key, Path string }
	}
	Claim *struct {
		Name string `yaml:"claimName"`
	} `yaml:"persistentVolumeClaim"`
}

type topologySpread struct {
	TopologyKey       string   `yaml:"topologyKey"`
	MaxSkew           int      `yaml:"maxSkew"`
	WhenUnsatisfiable string   `yaml:"whenUnsatisfiable"`
	LabelSelector     selector `yaml:"labelSelector"`
	MatchLabelKeys    []string `yaml:"matchLabelKeys"`
}

type configMap struct {
	object `yaml:",inline"`
	Data   map[string]string
}

type serviceAccount struct {
	object         `yaml:",inline"`
	AutomountToken *bool `yaml:"automountServiceAccountToken"`
}

type service struct {
	object `yaml:",inline"`
	Spec   struct {
		Type      string
		ClusterIP string `yaml:"clusterIP"`
		Selector  map[string]string
		Ports     []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
			NodePort   int    `yaml:"nodePort"`
		}
	}
}

type claim struct {
	object `yaml:",inline"`
	Spec   struct {
		AccessModes      []string `yaml:"accessModes"`
		StorageClassName *string  `yaml:"storageClassName"`
		Resources        struct{ Requests map[string]string }
	}
}

type ingress struct {
	object `yaml:",inline"`
	Spec   struct {
		ClassName string `yaml:"ingressClassName"`
		TLS       []struct {
			SecretName string `yaml:"secretName"`
			Hosts      []string
		}
		Rules []struct {
			Host string
			HTTP struct {
				Paths []struct {
					Path     string
					PathType string `yaml:"pathType"`
					Backend  struct {
						Service struct {
							Name string
							Port struct{ Name string }
						}
					}
				}
			}
		}
	}
}

type autoscaler struct {
	object `yaml:",inline"`
	Spec   struct {
		Target struct {
			APIVersion string `yaml:"apiVersion"`
			Kind, Name string
		} `yaml:"scaleTargetRef"`
		Min     int `yaml:"minReplicas"`
		Max     int `yaml:"maxReplicas"`
		Metrics []struct {
			Type     string
			Resource struct {
				Name   string
				Target struct {
					Type        string
					Utilization int `yaml:"averageUtilization"`
				}
			}
		}
		Behavior struct {
			ScaleDown struct {
				Window int `yaml:"stabilizationWindowSeconds"`
			} `yaml:"scaleDown"`
		}
	}
}

type disruptionBudget struct {
	object `yaml:",inline"`
	Spec   struct {
		MaxUnavailable any    `yaml:"maxUnavailable"`
		Unhealthy      string `yaml:"unhealthyPodEvictionPolicy"`
		Selector       selector
	}
}

type networkPolicy struct {
	object `yaml:",inline"`
	Spec   struct {
		PodSelector selector `yaml:"podSelector"`
		PolicyTypes []string `yaml:"policyTypes"`
		Ingress     []struct {
			From  []free
			Ports []struct{ Port, Protocol string }
		}
		Egress []struct {
			To    []free
			Ports []struct {
				Port     int
				Protocol string
			}
		}
	}
}

type serviceMonitor struct {
	object `yaml:",inline"`
	Spec   struct {
		Selector  selector
		Endpoints []struct {
			Port, Interval string
			Authorization  *struct{ Credentials struct{ Name, Key string } }
		}
	}
}

// kinds makes an empty object of each kind that the chart may render.
var kinds = map[string]func() any{
	"apps/v1 Deployment":                      func() any { return new(deployment) },
	"v1 Pod":                                  func() any { return new(pod) },
	"v1 ConfigMap":                            func() any { return new(configMap) },
	"v1 ServiceAccount":                       func() any { return new(serviceAccount) },
	"v1 Service":                              func() any { return new(service) },
	"v1 PersistentVolumeClaim":                func() any { return new(claim) },
	"networking.k8s.io/v1 Ingress":            func() any { return new(ingress) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networkPolicy) },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() any { return new(autoscaler) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(disruptionBudget) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(serviceMonitor) },
}

// decode reads what Helm has rendered. Fields that are not known, or are there twice, fail the test.
func decode(t *testing.T, rendered string) (all []any) {
	t.Helper()
	documents := yaml.NewDecoder(strings.NewReader(rendered))
	for {
		var n yaml.Node
		if err := documents.Decode(&n); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, rendered)
		}
		var o object
		if err := n.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "" {
			continue // an empty document
		}
		make, ok := kinds[o.APIVersion+" "+o.Kind]
		if !ok {
			t.Fatalf("%s %s is of no kind that is known here", o.APIVersion, o.Kind)
		}
		text, err := yaml.Marshal(&n)
		if err != nil {
			t.Fatal(err)
		}
		strict := yaml.NewDecoder(bytes.NewReader(text))
		strict.KnownFields(true)
		typed := make()
		if err := strict.Decode(typed); err != nil {
			t.Errorf("%s %s: %v in\n%s", o.Kind, o.Metadata.Name, err, text)
		}
		all = append(all, typed)
	}
}

// of returns the objects of one kind.
func of[T any](all []any) (some []*T) {
	for _, o := range all {
		if typed, ok := o.(*T); ok {
			some = append(some, typed)
		}
	}
	return some
}

// one returns the only object of a kind.
func one[T any](t *testing.T, all []any) *T {
	t.Helper()
	some := of[T](all)
	if len(some) != 1 {
		t.Fatalf("there are %d of %T, expected 1", len(some), *new(T))
	}
	return some[0]
}
