//! The one table of problems: code, status, title and remedy. Answers,
//! `/problems/{code}`, the reference document and the tests read it.

use http::StatusCode;

macro_rules! catalog {
    ($( $variant:ident $code:literal $status:ident $title:literal $remedy:literal )*) => {
        /// A problem's stable name, the contract's `code`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $( #[doc = $title] $variant, )* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The code as it stands in answers and addresses.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $code, )* }
            }

            /// The HTTP status that it always has.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $( Self::$variant => StatusCode::$status, )* }
            }

            /// A short summary that never changes with the occurrence (RFC 9457 §3.1.3).
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $( Self::$variant => $title, )* }
            }

            /// What somebody who gets it can do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $( Self::$variant => $remedy, )* }
            }

            /// The code of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == name)
            }
        }
    };
}

catalog! {
    MissingToken "missing-token" UNAUTHORIZED "No token was sent"
        "Send the header `Authorization: Bearer <JWT>` with a token of one of this gateway's issuers."
    InvalidToken "invalid-token" UNAUTHORIZED "The token isn't accepted"
        "Get a new token from your identity provider. If a new one is refused too, ask the operator to compare its issuer, audience, algorithm and signing key with the configuration."
    IdentityUnavailable "identity-unavailable" SERVICE_UNAVAILABLE "The token can't be checked now"
        "Your token may well be good: keep it. The keys that it is checked with can't be fetched from its issuer. Wait for `Retry-After` and try again; tell the operator if it goes on."
    InsufficientScope "insufficient-scope" FORBIDDEN "The token doesn't allow this operation"
        "Ask for a token with the scope that `WWW-Authenticate` names."
    TenantNotAllowed "tenant-not-allowed" FORBIDDEN "This tenant isn't yours"
        "Name a tenant that your token allows; `GET /v1/me` lists them. Unknown tenants and other people's get the same answer."
    TenantRequired "tenant-required" BAD_REQUEST "Say which tenant"
        "Your token allows several tenants. Choose one with the header `Llavero-Tenant: <id>`; `GET /v1/me` lists them."
    TlsRequired "tls-required" BAD_REQUEST "This port speaks TLS"
        "Write `https` in the address: HTTP without TLS isn't spoken there."
    UnknownParameter "unknown-parameter" BAD_REQUEST "A parameter that this operation doesn't have"
        "Remove or correct the parameters listed in `errors`. The ERP would ignore a misspelt filter in silence; this gateway doesn't."
    InvalidParameter "invalid-parameter" BAD_REQUEST "A parameter's value isn't valid"
        "Correct the parameters listed in `errors`."
    MalformedRequest "malformed-request" BAD_REQUEST "The request isn't well formed"
        "Correct what `detail` names; a client library writes it right by itself. Nothing was looked up or sent to the ERP."
    MalformedBody "malformed-body" BAD_REQUEST "The body can't be read"
        "Send a body in the format that its `Content-Type` says, complete and well formed."
    RequestTimeout "request-timeout" REQUEST_TIMEOUT "The request took too long to arrive"
        "Nothing was sent to the ERP. Send the request again; `detail` names the rule that the connection was too slow for."
    ValidationFailed "validation-failed" UNPROCESSABLE_ENTITY "The body's fields aren't valid"
        "Correct the fields listed in `errors`. Nothing was sent to the ERP."
    UpstreamValidation "upstream-validation" UNPROCESSABLE_ENTITY "The ERP refused the values"
        "Correct the fields listed in `errors`; they passed this gateway's checks but not the ERP's. Nothing was changed."
    NotFound "not-found" NOT_FOUND "Nothing is here"
        "Check the address and the id. A record that exists but that your tenant's credential can't see is not found either."
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED "This address doesn't take that method"
        "Use one of the methods in the header `Allow`."
    PreconditionFailed "precondition-failed" PRECONDITION_FAILED "The record has changed"
        "Read the record again, look at what changed, and send your change with its new `ETag` in `If-Match`."
    PayloadTooLarge "payload-too-large" PAYLOAD_TOO_LARGE "The body is too large"
        "Send less: `detail` names the limit."
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "This media type isn't taken here"
        "Send one of the media types that `detail` names."
    InvalidImage "invalid-image" UNPROCESSABLE_ENTITY "The image can't be used"
        "Send a complete photo; `detail` and `errors` say what is wrong with this one. Nothing was sent to the ERP."
    IdempotencyConflict "idempotency-conflict" CONFLICT "What became of the same request isn't known yet"
        "It is still running, or the ERP may yet carry it out. Wait for `Retry-After` and send it again with the same `Idempotency-Key`."
    IdempotencyMismatch "idempotency-mismatch" UNPROCESSABLE_ENTITY "This key was used for other content"
        "Nothing was sent. Send the same content for the same `Idempotency-Key`; new content needs a key of its own, which is made with it and kept with it."
    RateLimited "rate-limited" TOO_MANY_REQUESTS "Too many requests"
        "Wait for `Retry-After`, then go on more slowly."
    Overloaded "overloaded" SERVICE_UNAVAILABLE "The gateway is busy"
        "Wait for `Retry-After` and try again."
    UpstreamRateLimited "upstream-rate-limited" SERVICE_UNAVAILABLE "The ERP limits this tenant's requests"
        "Nothing was changed. Wait for `Retry-After` and try again. If it happens often, ask less: `Cache-Control: no-cache` goes round the cache."
    UpstreamUnavailable "upstream-unavailable" SERVICE_UNAVAILABLE "The ERP isn't available"
        "Wait for `Retry-After` and try again."
    UpstreamCredentialRejected "upstream-credential-rejected" BAD_GATEWAY "The ERP refused the tenant's credential"
        "Your token is fine. Tell the operator: the Api-key or login kept for this tenant is wrong, revoked or lacks a permission."
    UpstreamError "upstream-error" BAD_GATEWAY "The ERP failed"
        "Try a read again later. A write may have been made: send a photo, or a change that has an `Idempotency-Key`, again just as it was, with the same key, after `Retry-After` where there is one: the ERP is asked what became of it first. Before any other change is sent again, read the record."
    UpstreamMismatch "upstream-mismatch" BAD_GATEWAY "The ERP answered with another record"
        "The answer was thrown away. Check the id; tell the operator if it goes on."
    UpstreamTimeout "upstream-timeout" GATEWAY_TIMEOUT "The ERP took too long"
        "Try a read again later. A write may have been made: send a photo, or a change that has an `Idempotency-Key`, again just as it was, with the same key, after `Retry-After` where there is one: the ERP is asked what became of it first. Before any other change is sent again, read the record."
    NotCached "not-cached" GATEWAY_TIMEOUT "Nothing is kept that could be served"
        "You asked with `Cache-Control: only-if-cached`, and nothing is kept that is fresh enough or may be served while it is refreshed. Ask without it, and the ERP is asked."
    Internal "internal" INTERNAL_SERVER_ERROR "Something broke in the gateway"
        "Tell the operator the `X-Request-Id`: the log has the cause."
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn a_code_is_found_by_its_name_and_names_are_unique() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.as_str()), Some(*code));
        }
        assert_eq!(Code::from_name("no-such-code"), None);
    }
}
