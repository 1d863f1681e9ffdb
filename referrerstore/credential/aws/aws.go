// Package aws finds credentials for Amazon's container registries (ECR) by the
// identity that AWS gives the workload: that of its service account (IRSA, EKS
// pod identity), of its task or machine, or whatever else the default chain of
// the AWS SDK finds in the environment.
//
// With it ECR is asked for a password, which is good for the registries of one
// region for twelve hours. The region is that of the registry's name.
// Registries of public.ecr.aws need no credentials and have none here.
package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "aws"

const (
	maxAttempts = 2
	// user is the user name of all passwords of ECR.
	user          = "AWS"
	maxTokenBytes = 16 << 10
)

// Kind makes sources of entries with the option anyHost; for hosts outside of
// ECR's own domains the region is AWS_REGION of the environment.
func Kind(env credential.Environment) credential.Kind {
	return credential.Kind{
		Takes: []string{"anyHost"},
		Domains: []string{
			"*.dkr.ecr.*.amazonaws.com", "*.dkr.ecr-fips.*.amazonaws.com", "*.dkr.ecr.*.amazonaws.com.cn",
			"*.dkr-ecr.*.on.aws", "*.dkr-ecr-fips.*.on.aws", "*.dkr-ecr.*.on.amazonwebservices.com.cn",
		},
		New: func(entry credential.Entry, _ credential.Deps) (credential.Source, error) {
			s := &source{env: env}
			if entry.AnyHost {
				s.fallback = env.Getenv("AWS_REGION")
			}
			return s, nil
		},
	}
}

// source asks ECR. It is immutable.
type source struct {
	env      credential.Environment
	fallback string // region for hosts whose names have none
}

// place is where ECR is asked.
type place struct {
	region string
	fips   bool
}

// registryHost is the name of a registry: account, region and domain.
var registryHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z]{2,5}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2})\.` +
	`(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// placeOf reads the place out of a registry's host.
func placeOf(host string) (at place, ok bool) {
	m := registryHost.FindStringSubmatch(host)
	if m == nil {
		return place{}, false
	}
	return place{region: m[2], fips: m[1] != ""}, true
}

func (s *source) place(host string) (at place, ok bool) {
	if at, ok = placeOf(host); ok {
		return at, true
	}
	return place{region: s.fallback}, s.fallback != ""
}

// Key is the place: one password is for all registries there.
func (s *source) Key(host string) (string, bool) {
	at, _ := s.place(host)
	return fmt.Sprintf("%s %t", at.region, at.fips), true
}

// Find asks ECR for a password.
func (s *source) Find(ctx context.Context, host string) (credential.Credential, error) {
	at, ok := s.place(host)
	if !ok {
		return credential.Credential{}, fmt.Errorf("%s is not ACCOUNT.dkr.ecr.REGION.amazonaws.com, and no AWS_REGION with anyHost says where to ask", host)
	}
	watched, exchange := credential.Watch(ctx)
	answer, err := s.ask(watched, at)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("identity of AWS, region %s: %w", at.region, exchange.Failure(errorCode(err)))
	}
	if len(answer.AuthorizationData) == 0 {
		return credential.Credential{}, errors.New("the answer of ECR holds no password")
	}
	data := answer.AuthorizationData[0]
	return parseToken(sdk.ToString(data.AuthorizationToken), sdk.ToTime(data.ExpiresAt))
}

func (s *source) ask(ctx context.Context, at place) (*ecr.GetAuthorizationTokenOutput, error) {
	settings, err := config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(s.env.HTTP), config.WithDefaultRegion(at.region),
		config.WithRetryMaxAttempts(maxAttempts), config.WithLogger(logging.Nop{}),
		// The SDK gives its own client to this one if it is not told again.
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = s.env.HTTP }),
	)
	if err != nil {
		return nil, err
	}
	client := ecr.NewFromConfig(settings, func(o *ecr.Options) {
		o.Region = at.region
		if at.fips {
			o.EndpointOptions.UseFIPSEndpoint = sdk.FIPSEndpointStateEnabled
		}
	})
	return client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
}

// parseToken reads the base64 of user:password. Errors never quote it.
func parseToken(text string, until time.Time) (credential.Credential, error) {
	decoded, err := base64.StdEncoding.DecodeString(text)
	name, password, _ := strings.Cut(string(decoded), ":")
	if err != nil || name != user || password == "" || len(text) > maxTokenBytes {
		return credential.Credential{}, fmt.Errorf("the answer of ECR is not the base64 of %s:PASSWORD", user)
	}
	return credential.Credential{User: user, Password: password, Until: until}, nil
}

// errorCode is AWS's word for what is wrong. The text beside it may quote what
// was sent.
func errorCode(err error) string {
	var failed smithy.APIError
	if !errors.As(err, &failed) {
		return ""
	}
	code := failed.ErrorCode()
	if len(code) > 64 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.") != "" {
		return ""
	}
	return code
}
