//! The two ways to get a credential: `usuarios/login_usuario/` gives the user's key, `token/` and `refresh/` JWTs.

use http::StatusCode;
use serde_json::{Value, json};

use crate::erp::Call;
use crate::reply::{FieldErrors, NOT_A_STRING, NOT_NULL, REQUIRED, Reply};
use crate::seed::UserSeed;
use crate::state::{Tenant, TokenKind};

pub(crate) fn login_usuario(call: &Call<'_>) -> Result<Reply, Reply> {
    let login = Login::of(call)?;
    call.with_tenant(|tenant| {
        let place = tenant.users.iter().position(|user| login.fits(user));
        let Some(place) = place else {
            let answer = json!({"ok": false, "detail": "Usuario o contraseña incorrectos."});
            return Err(Reply::json(StatusCode::UNAUTHORIZED, &answer));
        };
        let user = &tenant.users[place];
        Ok(Reply::json(
            StatusCode::OK,
            &json!({
                "ok": true,
                "usuario": {
                    "id": place + 1,
                    "api_key": user.api_key,
                    "username": user.username,
                    "nombre": user.username.to_uppercase(),
                },
            }),
        ))
    })?
}

pub(crate) fn token(call: &Call<'_>) -> Result<Reply, Reply> {
    let login = Login::of(call)?;
    call.with_tenant(|tenant: &mut Tenant| {
        if !tenant.users.iter().any(|user| login.fits(user)) {
            let answer = json!({
                "detail": "La combinación de credenciales no tiene una cuenta activa",
                "code": "no_active_account",
            });
            return Err(Reply::json(StatusCode::UNAUTHORIZED, &answer));
        }
        let refresh = tenant.tokens.issue(TokenKind::Refresh, &login.username);
        let access = tenant.tokens.issue(TokenKind::Access, &login.username);
        Ok(Reply::json(
            StatusCode::OK,
            &json!({"refresh": refresh, "access": access}),
        ))
    })?
}

pub(crate) fn refresh(call: &Call<'_>) -> Result<Reply, Reply> {
    let mut errors = FieldErrors::default();
    let refresh = field(&call.object()?, "refresh", &mut errors);
    if !errors.is_empty() {
        return Err(Reply::invalid(errors));
    }
    call.with_tenant(|tenant| {
        let answer = match tenant.tokens.refresh(&refresh) {
            None => return Err(token_not_valid("El token es inválido o ha expirado")),
            Some((access, None)) => json!({"access": access}),
            Some((access, Some(refresh))) => json!({"access": access, "refresh": refresh}),
        };
        Ok(Reply::json(StatusCode::OK, &answer))
    })?
}

/// The refusal of a token, expired or never given out.
pub(crate) fn token_not_valid(detail: &str) -> Reply {
    Reply::unauthorized_with(&json!({"detail": detail, "code": "token_not_valid"}))
}

struct Login {
    username: String,
    password: String,
}

impl Login {
    fn of(call: &Call<'_>) -> Result<Self, Reply> {
        let body = call.object()?;
        let mut errors = FieldErrors::default();
        let login = Self {
            username: field(&body, "username", &mut errors),
            password: field(&body, "password", &mut errors),
        };
        if errors.is_empty() {
            Ok(login)
        } else {
            Err(Reply::invalid(errors))
        }
    }

    fn fits(&self, user: &UserSeed) -> bool {
        user.username == self.username && user.password == self.password
    }
}

fn field(body: &serde_json::Map<String, Value>, name: &str, errors: &mut FieldErrors) -> String {
    match body.get(name) {
        Some(Value::String(text)) => return text.clone(),
        None => errors.add(name, REQUIRED),
        Some(Value::Null) => errors.add(name, NOT_NULL),
        Some(_) => errors.add(name, NOT_A_STRING),
    }
    String::new()
}
