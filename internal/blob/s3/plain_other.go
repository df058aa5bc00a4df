//go:build !linux

package s3

import "net/http"

func newGetter(t *http.Transport) getter { return t }
