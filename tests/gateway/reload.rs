//! Tenants come, change and go while the gateway runs.

use std::{fs, os::unix::fs::symlink, path::Path};

use llavero_simulator::{TenantSeed, UserSeed};
use reqwest::Method;
use serde_json::json;

use crate::harness::{World, leaks::KEY_MARK, with_clave};

/// A tenant's file with the key in the file of that name.
fn tenant_file(tenant: &str, key_file: &str) -> String {
    format!(
        "clave: {}\ncredentials: {{default: {{api_key: {{file: {key_file}}}}}}}\n",
        with_clave(tenant)
    )
}

/// A tenant of the ERP that has no file yet.
fn add_to_the_erp(world: &World, tenant: &str, first: u64) {
    let seed = TenantSeed::new(with_clave(tenant))
        .orders(3, first)
        .user(UserSeed::new(
            "app",
            "contrasena",
            format!("{KEY_MARK}-{tenant}"),
        ));
    world.erp.add_tenant(seed);
}

#[tokio::test]
async fn a_tenant_comes_and_goes() {
    let world = World::start().await;
    let token = world.token(&json!({"tenant": "bahia"}));
    add_to_the_erp(&world, "bahia", 31001);
    world
        .get_as(&token, "/v1/ordenes/31001")
        .await
        .problem(403, "tenant-not-allowed");
    let ours = world.get("/v1/ordenes/11001").await;

    fs::write(world.files().join("bahia.key"), format!("{KEY_MARK}-bahia")).unwrap();
    world
        .reloaded(|| {
            world.replace_file("tenants/bahia.yaml", &tenant_file("bahia", "../bahia.key"))
        })
        .await;
    world.get_as(&token, "/v1/ordenes/31001").await.ok(200);
    world.wait_for_metric("llavero_tenants 3").await;
    // Its key is looked for in what goes out.
    let note = format!("{KEY_MARK}-bahia");
    let clave = with_clave("bahia");
    world
        .erp
        .put_orden(&clave, 31002, json!({"id": 31002, "nota": note}));
    world
        .get_as(&token, "/v1/ordenes/31002")
        .await
        .problem(500, "internal");
    let hit = world.get("/v1/ordenes/11001").await;
    assert!(
        hit.header("cache-status").contains("hit"),
        "others keep theirs"
    );
    assert_eq!(hit.body, ours.body);

    let held = |metrics: &str| -> u64 {
        let mut lines = metrics.lines();
        let line = lines
            .find_map(|line| line.strip_prefix("llavero_cache_bytes "))
            .unwrap();
        line.parse().unwrap()
    };
    let before = held(&world.metrics().await);
    world
        .reloaded(|| fs::remove_file(world.files().join("tenants/bahia.yaml")).unwrap())
        .await;
    world
        .get_as(&token, "/v1/ordenes/31001")
        .await
        .problem(403, "tenant-not-allowed");
    assert!(
        held(&world.metrics().await) < before,
        "its cache is dropped"
    );
    world.get("/v1/ordenes/11001").await.ok(200);
}

#[tokio::test]
async fn a_bad_file_keeps_the_last_good_version_and_is_told() {
    let world = World::start().await;
    let good = fs::read_to_string(world.files().join("tenants/carper.yaml")).unwrap();
    world
        .reloaded(|| world.replace_file("tenants/carper.yaml", &good.replace("clave:", "calve:")))
        .await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world.wait_for_metric("llavero_tenants 2").await;
    world
        .wait_for_metric("llavero_tenant_config_errors 1")
        .await;
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    assert!(
        ready.contains("carper.yaml:1: calve: unknown key; did you mean \"clave\"?"),
        "{ready}"
    );
    assert!(ready.contains("it is served as it was before"), "{ready}");

    let narrowed = good.replace(
        "{match: {}, credential: default}",
        "{match: {}, credential: default, scopes: [\"ordenes:read\"]}",
    );
    world
        .reloaded(|| world.replace_file("tenants/carper.yaml", &narrowed))
        .await;
    world
        .wait_for_metric("llavero_tenant_config_errors 0")
        .await;
    world
        .patch("/v1/ordenes/11001", json!({"status": "terminada"}))
        .await
        .problem(403, "insufficient-scope");
}

#[tokio::test]
async fn a_changed_key_is_used_from_then_on_and_never_meets_the_old_ones_answers() {
    let world = World::start().await;
    world.get("/v1/ordenes/11002").await.ok(200);
    let hit = world.get("/v1/ordenes/11002").await;
    assert!(hit.header("cache-status").contains("hit"));
    // The technicians' user doesn't see this order.
    let key = format!("{KEY_MARK}-carper-tecnicos\n");
    world
        .reloaded(|| world.replace_file("carper-default.key", &key))
        .await;
    world
        .get("/v1/ordenes/11002")
        .await
        .problem(404, "not-found");
    assert_eq!(world.get("/v1/ordenes").await.ok(200)["count"], 64);
}

#[tokio::test]
async fn a_mounted_volume_is_swapped_at_once() {
    let world = World::start().await;
    let tenants = world.files().join("tenants");
    let version = |name: &str, files: &[(&str, String)]| {
        let dir = tenants.join(name);
        fs::create_dir(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
    };
    let swap_to = |name: &str| {
        symlink(name, tenants.join("..data_tmp")).unwrap();
        fs::rename(tenants.join("..data_tmp"), tenants.join("..data")).unwrap();
    };
    let carper = fs::read_to_string(tenants.join("carper.yaml")).unwrap();
    version(
        "..first",
        &[
            ("carper.yaml", carper.clone()),
            ("bahia.yaml", "clave: [".to_owned()),
        ],
    );
    world
        .reloaded(|| {
            for file in ["carper.yaml", "norte.yaml"] {
                fs::remove_file(tenants.join(file)).unwrap();
            }
            swap_to("..first");
            for file in ["carper.yaml", "bahia.yaml"] {
                symlink(format!("..data/{file}"), tenants.join(file)).unwrap();
            }
        })
        .await;
    world
        .wait_for_metric("llavero_tenant_config_errors 1")
        .await;
    world.wait_for_metric("llavero_tenants 1").await;
    world.get("/v1/ordenes/11001").await.ok(200);

    add_to_the_erp(&world, "bahia", 31001);
    fs::write(world.files().join("bahia.key"), format!("{KEY_MARK}-bahia")).unwrap();
    version(
        "..second",
        &[
            (
                "carper.yaml",
                carper.replace(
                    "{match: {}, credential: default}",
                    "{match: {sub: nobody}, credential: default}",
                ),
            ),
            (
                "bahia.yaml",
                tenant_file("bahia", "../../bahia.key").replace("../../", "../"),
            ),
        ],
    );
    world.reloaded(|| swap_to("..second")).await;
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(403, "tenant-not-allowed");
    let token = world.token(&json!({"tenant": "bahia"}));
    world.get_as(&token, "/v1/ordenes/31001").await.ok(200);
}

/// Lays `files` out in `dir` as kubelet's AtomicWriter does: links to new files come after the swap, one by
/// one, and those to old ones go last.
fn mount(dir: &Path, version: &str, files: &[(&str, String)]) {
    let version = dir.join(format!("..{version}"));
    fs::create_dir(&version).unwrap();
    for (file, text) in files {
        fs::write(version.join(file), text).unwrap();
    }
    symlink(version.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    for (file, _) in files {
        let link = dir.join(file);
        if !link.is_symlink() {
            symlink(format!("..data/{file}"), link).unwrap();
        }
    }
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_symlink() && !entry.path().exists() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// What the chart's `tenantSlots` are: a Secret with a tenant's file and its key beside it, which is applied,
/// changed and deleted while the volume is mounted.
#[tokio::test]
async fn a_secret_in_a_mounted_volume_is_a_tenant_that_comes_and_goes() {
    let world = World::start().await;
    let tenants = world.files().join("tenants");
    add_to_the_erp(&world, "bahia", 31001);
    let token = world.token(&json!({"tenant": "bahia"}));
    let of_values = (
        "carper.yaml",
        fs::read_to_string(tenants.join("carper.yaml")).unwrap(),
    );
    world
        .reloaded(|| {
            for file in ["carper.yaml", "norte.yaml"] {
                fs::remove_file(tenants.join(file)).unwrap();
            }
            mount(&tenants, "1", std::slice::from_ref(&of_values));
        })
        .await;
    world
        .get_as(&token, "/v1/ordenes/31001")
        .await
        .problem(403, "tenant-not-allowed");

    let with_key = |key: &str| {
        [
            of_values.clone(),
            ("bahia.yaml", tenant_file("bahia", "bahia.api-key")),
            ("bahia.api-key", key.to_owned()),
        ]
    };
    let wrong_key = format!("{KEY_MARK}-bahia-of-before");
    world
        .reloaded(|| mount(&tenants, "2", &with_key(&wrong_key)))
        .await;
    world
        .get_as(&token, "/v1/ordenes/31001")
        .await
        .problem(502, "upstream-credential-rejected");
    world.get("/v1/ordenes/11001").await.ok(200);

    world
        .reloaded(|| mount(&tenants, "3", &with_key(&format!("{KEY_MARK}-bahia"))))
        .await;
    world.get_as(&token, "/v1/ordenes/31001").await.ok(200);

    world
        .reloaded(|| mount(&tenants, "4", std::slice::from_ref(&of_values)))
        .await;
    world
        .get_as(&token, "/v1/ordenes/31001")
        .await
        .problem(403, "tenant-not-allowed");
    world.get("/v1/ordenes/11001").await.ok(200);
}

#[tokio::test]
async fn a_request_under_way_keeps_what_it_began_with() {
    let world = World::start().await;
    world.holds("carper");
    let slow = world.request(Method::GET, "/v1/ordenes/11001");
    let slow = tokio::spawn(slow.send());
    world.wait_until_received(1).await;
    world
        .reloaded(|| fs::remove_file(world.files().join("tenants/carper.yaml")).unwrap())
        .await;
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(403, "tenant-not-allowed");
    world.lets_go("carper");
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn whoever_has_an_account_keeps_it() {
    let world = World::start().await;
    // Its name sorts first, and its account is carper's.
    world
        .reloaded(|| {
            world.replace_file(
                "tenants/aaa.yaml",
                &tenant_file("carper", "../carper-default.key"),
            )
        })
        .await;
    world.get("/v1/ordenes/11001").await.ok(200);
    let aaa = world.token(&json!({"tenant": "aaa"}));
    world
        .get_as(&aaa, "/v1/ordenes/11001")
        .await
        .problem(403, "tenant-not-allowed");
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    assert!(
        ready.contains("aaa.yaml: clave: names the same account as the tenant carper"),
        "{ready}"
    );
}

#[tokio::test]
async fn where_the_directory_goes_the_tenants_stay() {
    let world = World::start().await;
    let (here, away) = (world.files().join("tenants"), world.files().join("away"));
    fs::rename(&here, &away).unwrap();
    let ready = async || {
        let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
        let ready = world.send(ready).await;
        assert_eq!(ready.status, 200);
        ready.text()
    };
    let told = "tenants_dir: can't be read since ";
    let mut seconds = 0;
    while !ready().await.contains(told) {
        assert!(seconds < 40, "nobody looks");
        world.clock.advance(std::time::Duration::from_secs(1));
        seconds += 1;
    }
    world.wait_for_metric("llavero_tenants 2").await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world
        .wait_for_metric("llavero_tenant_reloads_total{result=\"changed\"} 0")
        .await;
    let first = ready().await;
    let line = |text: &str| {
        let line = text.lines().find(|line| line.starts_with(told));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let begun = line(&first);
    assert!(begun.contains("No such file"), "{begun}");
    world
        .noticed("llavero_tenant_reloads_total{result=\"failed\"}", || {
            fs::create_dir(&here).unwrap();
            fs::remove_dir(&here).unwrap();
        })
        .await;
    assert_eq!(line(&ready().await), begun, "since the first look");
    world
        .noticed("llavero_tenant_reloads_total{result=\"changed\"}", || {
            fs::rename(&away, &here).unwrap();
            fs::remove_file(here.join("norte.yaml")).unwrap();
        })
        .await;
    world.get("/v1/ordenes/11001").await.ok(200);
    world.wait_for_metric("llavero_tenants 1").await;
    assert!(!ready().await.contains(told));
}

/// The keys lie in a directory whose name is a link, as a tool that writes a new one each time leaves it.
#[tokio::test]
async fn a_directory_behind_a_link_is_swapped_at_once() {
    let world = World::start().await;
    let keys = |dir: &str, user: &str| {
        fs::create_dir(world.files().join(dir)).unwrap();
        let key = format!("{KEY_MARK}-carper-{user}");
        fs::write(world.files().join(dir).join("carper.key"), key).unwrap();
    };
    let swap_to = |dir: &str| {
        let (new, live) = (world.files().join("live.new"), world.files().join("live"));
        symlink(dir, &new).unwrap();
        fs::rename(new, live).unwrap();
    };
    keys("a", "default");
    keys("b", "tecnicos");
    swap_to("a");
    let changed = "llavero_tenant_reloads_total{result=\"changed\"}";
    let file = fs::read_to_string(world.files().join("tenants/carper.yaml")).unwrap();
    let file = file.replace("../carper-default.key", "../live/carper.key");
    // The key is the same.
    let renamed = file.replace("{match: {}", "{match: {sub: ana}");
    world
        .noticed(changed, || {
            world.replace_file("tenants/carper.yaml", &renamed)
        })
        .await;
    world.get("/v1/ordenes/11002").await.ok(200);
    world.noticed(changed, || swap_to("b")).await;
    // The technicians' user doesn't see this order.
    world
        .get("/v1/ordenes/11002")
        .await
        .problem(404, "not-found");
    // The directory that is there now is the one that is looked at.
    let key = format!("{KEY_MARK}-carper-default");
    world
        .noticed(changed, || world.replace_file("b/carper.key", &key))
        .await;
    world.get("/v1/ordenes/11002").await.ok(200);
}

#[tokio::test]
async fn a_tenant_may_be_a_directory_of_files() {
    let world = World::start().await;
    add_to_the_erp(&world, "bahia", 31001);
    let dir = world.files().join("tenants/bahia");
    let token = world.token(&json!({"tenant": "bahia"}));
    // As Kubernetes mounts a Secret.
    let swap_to = |version: &str, files: &[(&str, String)]| {
        let data = dir.join(version);
        fs::create_dir_all(&data).unwrap();
        for (file, text) in files {
            fs::write(data.join(file), text).unwrap();
            if !dir.join(file).exists() {
                symlink(format!("..data/{file}"), dir.join(file)).unwrap();
            }
        }
        symlink(version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    let (clave, api_key) = (with_clave("bahia"), format!("{KEY_MARK}-bahia"));
    world
        .reloaded(|| {
            swap_to(
                "..1",
                &[
                    ("clave", format!("{clave}\n")),
                    ("api-key", format!("{api_key}\n")),
                ],
            )
        })
        .await;
    world.get_as(&token, "/v1/ordenes/31001").await.ok(200);

    let users =
        "users:\n- {match: {sub: ana}, credential: default, scopes: [ordenes:raed]}\n".to_owned();
    world
        .reloaded(|| {
            swap_to(
                "..2",
                &[
                    ("clave", clave.clone()),
                    ("api-key", "con blancos".to_owned()),
                    ("users.yaml", users),
                    ("username", "app".to_owned()),
                ],
            );
        })
        .await;
    world.get_as(&token, "/v1/ordenes/31001").await.ok(200);
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    assert!(
        ready.contains("bahia: has both `api-key` and a login; remove one"),
        "{ready}"
    );

    world
        .reloaded(|| {
            fs::remove_file(dir.join("username")).unwrap();
            fs::write(dir.join("user.yaml"), "[]").unwrap();
        })
        .await;
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    assert!(
        ready.contains("bahia/user.yaml: isn't a setting of a tenant"),
        "{ready}"
    );

    world
        .reloaded(|| fs::remove_file(dir.join("user.yaml")).unwrap())
        .await;
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    for told in [
        "bahia/api-key: an Api-key has visible ASCII characters only",
        "bahia/users.yaml:2: users[0].scopes[0]: not one of Llavero's scopes",
    ] {
        assert!(ready.contains(told), "{told}\n{ready}");
    }

    let login = [
        ("clave", clave.clone()),
        ("username", "app".to_owned()),
        ("password", "contrasena\n".to_owned()),
        (
            "users.yaml",
            "users:\n- {match: {sub: ana}, credential: default, scopes: [ordenes:read]}\n"
                .to_owned(),
        ),
    ];
    world
        .reloaded(|| {
            fs::remove_file(dir.join("api-key")).unwrap();
            swap_to("..3", &login);
        })
        .await;
    let me = world.get_as(&token, "/v1/me").await.ok(200);
    assert_eq!(me["scopes"], json!(["ordenes:read"]));
    let fresh = world
        .bare(Method::GET, "/v1/ordenes/31001")
        .bearer_auth(&token);
    world
        .send(fresh.header("cache-control", "no-cache"))
        .await
        .ok(200);
}

#[tokio::test]
async fn what_says_the_same_is_no_change() {
    let world = World::start().await;
    let file = fs::read_to_string(world.files().join("tenants/carper.yaml")).unwrap();
    let changed = "llavero_tenant_reloads_total{result=\"changed\"} 2";
    world
        .reloaded(|| {
            // Written again, and again with another comment.
            world.replace_file("tenants/carper.yaml", &file);
            world.replace_file("tenants/carper.yaml", &format!("# nothing new\n{file}"));
            world.replace_file("tenants/norte.yaml", "clave: [");
        })
        .await;
    world
        .reloaded(|| fs::remove_file(world.files().join("tenants/norte.yaml")).unwrap())
        .await;
    let metrics = world.metrics().await;
    assert!(
        metrics.contains(changed),
        "norte turns wrong, and goes\n{metrics}"
    );
}

#[tokio::test]
async fn what_is_no_file_holds_up_nobody() {
    let world = World::start().await;
    let make_pipe = |name: &str| {
        let path = world.files().join(name);
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    fs::create_dir(world.files().join("tenants/tubo")).unwrap();
    make_pipe("tubo.key");
    make_pipe("tenants/tubo/clave");
    symlink("/dev/zero", world.files().join("tenants/tubo/api-key")).unwrap();
    symlink("nowhere.yaml", world.files().join("tenants/norte.new")).unwrap();
    world
        .reloaded(|| {
            let bahia = tenant_file("bahia", "../tubo.key");
            world.replace_file("tenants/bahia.yaml", &bahia);
            let (link, file) = ("tenants/norte.new", "tenants/norte.yaml");
            fs::rename(world.files().join(link), world.files().join(file)).unwrap();
        })
        .await;
    world
        .wait_for_metric("llavero_tenant_config_errors 3")
        .await;
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await.text();
    assert!(ready.contains("it isn't an ordinary file"), "{ready}");
    // Its link leads nowhere: it is wrong, not gone.
    let norte = world.token(&json!({"tenant": "norte"}));
    world.get_as(&norte, "/v1/ordenes/21001").await.ok(200);
}
