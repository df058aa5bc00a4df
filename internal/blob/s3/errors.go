package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/berthregistry/berth/internal/blob"
)

var (
	// errStalled: the store has neither taken nor given a byte for too long.
	errStalled = errors.New("the store does not go on")
	// errDamaged: what the store says it has is not what was sent.
	errDamaged = errors.New("the store's checksum is not that of the bytes")
	// errOther: the object that came of an upload's parts is not theirs.
	errOther = errors.New("the object is not made of the parts that were sent")
)

// answer returns the store's answer that err is made of, if there was one.
func answer(err error) (minio.ErrorResponse, bool) {
	return errors.AsType[minio.ErrorResponse](err)
}

// isCode tells whether the store answered one of the codes.
func isCode(err error, codes ...string) bool {
	a, ok := answer(err)
	if !ok {
		return false
	}
	for _, c := range codes {
		if a.Code == c {
			return true
		}
	}
	return false
}

// class is what is to be done about an error.
type class int

const (
	final   class = iota // it will be the same next time
	missing              // there is no such object or upload
	full                 // a quota or the store's disk is
	passing              // worth another try
	setup                // the operator has something to do; nothing goes until then
)

func classify(err error) class {
	if errors.Is(err, errStalled) || errors.Is(err, errDamaged) {
		return passing
	}
	if errors.Is(err, errOther) {
		return final
	}
	if errors.Is(err, errNoCredentials) {
		return setup
	}
	a, ok := answer(err)
	if !ok {
		// What never got an answer. The client library hides most types of such errors.
		_, authority := errors.AsType[x509.UnknownAuthorityError](err)
		_, host := errors.AsType[x509.HostnameError](err)
		_, invalid := errors.AsType[x509.CertificateInvalidError](err)
		_, verify := errors.AsType[*tls.CertificateVerificationError](err)
		if authority || host || invalid || verify {
			return setup
		}
		return passing
	}
	switch a.Code {
	case "NoSuchKey", "NoSuchUpload", "NoSuchVersion":
		return missing
	case "QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "InsufficientCapacity":
		return full
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError", "InternalFailure", "RequestTimeout", "ServiceUnavailable", "OperationAborted",
		"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "BandwidthLimitExceeded",
		"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch":
		return passing
	case "NoSuchBucket", "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
		"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed",
		"PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "InvalidBucketState", "KMS.DisabledException":
		return setup
	}
	switch a.StatusCode {
	case http.StatusInsufficientStorage:
		return full
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, 499, 520:
		return passing
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return setup // also where a store answers 404 for a user that does not exist
	}
	return final
}

// credentialsRefused tells whether other credentials might be let in.
func credentialsRefused(err error) bool {
	return isCode(err, "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId")
}

// refusesCRC tells whether the store does not know CRC-32C.
func refusesCRC(err error) bool {
	a, ok := answer(err)
	if !ok {
		return false
	}
	if a.StatusCode == http.StatusNotImplemented || a.Code == "NotImplemented" {
		return true
	}
	return (a.Code == "InvalidArgument" || a.Code == "InvalidRequest") && strings.Contains(strings.ToLower(a.Message), "checksum")
}

// wrap says what failed on what, where, and which of the contract's errors it is. It names no secret.
func (s *Store) wrap(ctx context.Context, op, object string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", blob.ErrUnavailable, err)
		}
		return fmt.Errorf("%s %s in bucket %s at %s: %w", op, object, s.bucket, s.client.EndpointURL().Host, err)
	}
	if a, ok := answer(err); ok && a.Code != "" {
		err = fmt.Errorf("%s: %w", a.Code, err)
	}
	switch classify(err) {
	case missing:
		err = fmt.Errorf("%w: %w", blob.ErrNotFound, err)
	case full:
		err = fmt.Errorf("%w: %w", blob.ErrNoSpace, err)
	case passing:
		err = fmt.Errorf("%w: %w", blob.ErrUnavailable, err)
	case setup:
		err = fmt.Errorf("%w: check the bucket's name, the endpoint, the region and the credentials: %w", blob.ErrUnavailable, err)
	}
	return fmt.Errorf("%s %s in bucket %s at %s: %w", op, object, s.bucket, s.client.EndpointURL().Host, err)
}
