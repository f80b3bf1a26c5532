//! Owns the proof that the admin page can be used in a real browser by whoever has the token: by mouse and by keyboard, on a
//! screen and on a phone, in light and in dark, past restarts. Skipped, saying so, where there is no Chromium with its driver. With
//! `WAYPOST_SCREENSHOTS` set to a folder it leaves a picture of each view there, for whoever changes their looks.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/link.rs"]
mod link;
#[path = "common/page.rs"]
mod page;

use browser::{ENTER, ESCAPE, TAB};
use page::Page;
use serde_json::{Value, json};

/// A name that would run as markup.
const MARKUP: &str = "<img src=x onerror=document.title='run'>";

#[tokio::test]
async fn a_link_logs_in_and_leaves_no_token_behind() {
    let Some(page) = Page::logged_in().await else { return };
    let (browser, token) = (&page.browser, page.daemon.token());
    assert_eq!(browser.address().await, page.url(""));
    let kept = "return [{...sessionStorage}, {...localStorage}, document.cookie]";
    assert_eq!(browser.script(kept).await, json!([{"waypost.token": token}, {}, ""]));
    browser.reload().await;
    browser.shows("#state", "Ready").await;

    browser.click("#log-out").await;
    browser.shows("#view-log-in h2", "Log in").await;
    assert_eq!(browser.script(kept).await, json!([{}, {}, ""]));
    browser.reload().await;
    browser.shows("#view-log-in h2", "Log in").await;
    assert_eq!(browser.script("return document.getElementById('nav').checkVisibility()").await, false);

    // A link that is pasted while the page is open loads nothing anew.
    browser.script(&format!("location.hash = '#token={token}'")).await;
    browser.shows("#state", "Ready").await;
    assert_eq!(browser.address().await, page.url(""));
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn the_field_logs_in_and_a_wrong_token_is_told() {
    let Some(page) = Page::open().await else { return };
    let browser = &page.browser;
    for wrong in ["wrong", "tökén"] {
        browser.fill("#token", wrong).await;
        browser.press(ENTER).await;
        browser.shows("#token-error", "This token is not accepted.").await;
        assert_eq!(browser.script("return document.activeElement.id").await, "token");
        assert_eq!(browser.script("return sessionStorage.length").await, 0);
        browser.script("document.getElementById('token-error').textContent = ''").await;
    }
    browser.go(&page.url("#token=other")).await;
    browser.shows("#token-error", "This token is not accepted.").await;
    assert_eq!(browser.address().await, page.url(""));
    browser.fill("#token", &page.daemon.token()).await;
    browser.click("#view-log-in button").await;
    browser.shows("#state", "Ready").await;
    assert_eq!(browser.script("return document.getElementById('token').value").await, "");
    page.ends_well(&["401"]).await;
}

#[tokio::test]
async fn names_that_are_markup_are_text() {
    let Some(page) = Page::logged_in().await else { return };
    let name = MARKUP.replace(' ', "/");
    page.peer(&name).await;
    let _binary = link::binary(&page.daemon, MARKUP).await;
    page.view("leases").await;
    let browser = &page.browser;
    browser.shows("#view-leases td.id", &name).await;
    browser.shows("#view-leases td.id", MARKUP).await;
    browser.fill("#lease-prefix", "<img/").await;
    page.counts("leases", "1 lease").await;
    browser.click("#view-leases .does button").await;
    browser.shows("#detail-title", &name).await;
    browser.click("#detail-end").await;
    browser.shows("#confirm-title", &name).await;
    browser.press(ESCAPE).await;
    for view in ["connections", "claims"] {
        page.view(view).await;
        browser.shows(&format!("#view-{view} td.id"), MARKUP).await;
    }
    assert_eq!(
        browser.script("return document.querySelectorAll('img:not(h1 img), [onerror]').length").await,
        0
    );
    assert_ne!(browser.script("return document.title").await, "run");
    // Even a script of the page's own could not make markup of it, nor run one that is not a file of the daemon.
    let tried =
        "try { document.body.innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name }";
    assert_eq!(browser.script(tried).await, "TypeError");
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|(_, text)| text.contains("TrustedHTML")), "{complaints:?}");
    page.ends_well(&[]).await;
}

/// Whether what has the focus shows it.
const SHOWS_FOCUS: &str = "const it = document.activeElement, style = getComputedStyle(it);
    return it.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

#[tokio::test]
async fn a_question_that_is_asked_again_at_once_is_answered_as_any_other() {
    let Some(page) = Page::logged_in().await else { return };
    let again = "const [sweep, asked] = ['sweep', 'confirm'].map(id => document.getElementById(id));
        sweep.click();
        asked.close();
        sweep.click();";
    page.browser.script(again).await;
    // By then the page has been told of the close.
    page.browser.shows("#confirm-title", "Sweep now").await;
    page.browser.script("document.getElementById('confirm-yes').click()").await;
    page.browser.shows("#told", "Swept: nothing had ended.").await;
}

#[tokio::test]
async fn everything_is_done_by_keyboard() {
    let Some(page) = Page::open().await else { return };
    let (browser, daemon) = (&page.browser, &page.daemon);
    page.peer("node").await;
    browser.tab_to("#token").await;
    browser.press(&daemon.token()).await;
    browser.press(ENTER).await;
    browser.shows("#state", "Ready").await;

    browser.tab_to("nav a[href='#leases']").await;
    assert_eq!(browser.script(SHOWS_FOCUS).await, true);
    browser.press(ENTER).await;
    browser.shows("#view-leases td.id", "node").await;
    assert_eq!(browser.script("return document.activeElement.textContent").await, "Leases");
    browser.tab_to("#view-leases .does button").await;
    assert_eq!(browser.script(SHOWS_FOCUS).await, true);
    let focus = "return document.activeElement.ariaLabel ?? document.activeElement.id";
    assert_eq!(browser.script(focus).await, "Details peer node");
    browser.press(ENTER).await;
    browser.shows("#detail-title", "peer node").await;
    assert_eq!(browser.script(focus).await, "detail-close");
    browser.press(ESCAPE).await;
    browser.until("!document.getElementById('detail').open").await;
    assert_eq!(browser.script(focus).await, "Details peer node", "the focus is where it was");

    browser.tab_to("nav a[href='#overview']").await;
    browser.press(ENTER).await;
    browser.tab_to("#sweep").await;
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Sweep now").await;
    assert_eq!(browser.script(focus).await, "confirm-yes");
    browser.press(ESCAPE).await;
    browser.until("!document.getElementById('confirm').open").await;
    assert_eq!(browser.texts("#told").await, [""]);
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Sweep now").await;
    browser.press(ENTER).await;
    browser.shows("#told", "Swept: nothing had ended.").await;

    browser.tab_to("#drain").await;
    browser.press(ENTER).await;
    browser.shows("#confirm-title", "Drain").await;
    browser.press("drai").await;
    browser.press(ENTER).await;
    assert_eq!(browser.script("return document.getElementById('confirm').open").await, true);
    assert_eq!(browser.script("return document.getElementById('confirm-yes').disabled").await, true);
    // Within the dialog Tab goes round.
    browser.press(TAB).await;
    assert_eq!(browser.script(focus).await, "confirm-no");
    browser.press(ESCAPE).await;
    page.ends_well(&[]).await;
}

#[tokio::test]
async fn a_page_for_which_there_is_no_stream_tells_so_and_gets_the_next_one() {
    let Some(page) = Page::open().await else { return };
    let mut streams = Vec::new();
    for _ in 0..waypost::limits::EVENT_STREAMS {
        let url = format!("http://{}/admin/api/events", page.daemon.addresses().admin);
        let answer = reqwest::Client::new().get(url).bearer_auth(page.daemon.token()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        streams.push(answer);
    }
    page.browser.go(&page.link()).await;
    page.browser.shows("#state", "There are 16 streams already. Trying again in").await;
    page.view("leases").await;
    drop(streams);
    page.browser.shows("#state", "Ready").await;
    page.ends_well(&["503"]).await;
}

#[tokio::test]
async fn the_page_finds_its_way_back_after_a_restart_and_asks_for_a_token_that_has_changed() {
    let Some(mut page) = Page::logged_in().await else { return };
    page.browser.shows("#daemon", "start number 1").await;
    page.view("connections").await;
    page.daemon.stop_in_place().await;
    page.browser.shows("#state", "Trying again in").await;
    page.daemon.start_again().await;
    page.browser.shows("#state", "Ready").await;
    let (_alice, _) = page.daemon.registered("alice").await;
    page.browser.click("#view-connections form button").await;
    page.counts("connections", "1 connection").await;
    page.view("overview").await;
    page.browser.shows("#daemon", "start number 2").await;

    drop(_alice);
    std::fs::remove_file(page.daemon.data_dir().join("admin.token")).unwrap();
    page.daemon.stop_in_place().await;
    page.daemon.start_again().await;
    page.browser.shows("#token-error", "The token is not accepted any more.").await;
    page.browser.fill("#token", &page.daemon.token()).await;
    page.browser.press(ENTER).await;
    page.browser.shows("#daemon", "start number 3").await;
    page.ends_well(&["401", "ERR_"]).await;
}

/// The least contrast of a text with what is behind it, over all that can be seen; with the text.
const CONTRAST: &str = "
    const parts = color => color.match(/[\\d.]+/g).map(Number);
    const light = color => {
        const [r, g, b] = parts(color).map(it => (it /= 255) <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = it => {
        const color = getComputedStyle(it).backgroundColor;
        return it.parentElement && (parts(color)[3] ?? 1) === 0 ? behind(it.parentElement) : color;
    };
    let least = [21, ''];
    for (const it of document.querySelectorAll('body *')) {
        const own = [...it.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || !it.checkVisibility() || it.disabled) continue;
        const [a, b] = [light(getComputedStyle(it).color), light(behind(it))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < least[0]) least = [contrast, it.outerHTML.slice(0, 80)];
    }
    return least;";

#[tokio::test]
async fn every_view_fits_a_phone_and_can_be_read_in_light_and_in_dark() {
    let Some(page) = Page::logged_in().await else { return };
    let (_alice, _) = page.daemon.registered(&"a".repeat(128)).await;
    page.peer(&"n".repeat(128)).await;
    let _binary = link::binary(&page.daemon, &"h".repeat(256)).await;
    page.second().await;
    let browser = &page.browser;
    let ground =
        async || -> Value { browser.script("return getComputedStyle(document.body).backgroundColor").await };
    browser.prefer("light").await;
    let light = ground().await;
    browser.prefer("dark").await;
    let dark = ground().await;
    assert_ne!(light, dark);
    // Whatever the system says, until told otherwise.
    for (choice, expected) in [("light", &light), ("dark", &dark), ("", &dark)] {
        browser.choose("#theme", choice).await;
        assert_eq!(&ground().await, expected, "{choice}");
    }
    let checked = async |what: &str, width: usize, scheme: &str| {
        let wide = browser.script("return document.documentElement.scrollWidth").await;
        assert!(wide.as_u64() <= Some(width as u64), "{what} at {width}: {wide}");
        let contrast = browser.script(CONTRAST).await;
        assert!(contrast[0].as_f64() >= Some(4.5), "{what} in {scheme}: {contrast}");
        if let Some(folder) = std::env::var_os("WAYPOST_SCREENSHOTS") {
            let path = std::path::Path::new(&folder).join(format!("{what}-{scheme}-{width}.png"));
            std::fs::write(path, browser.screenshot().await).unwrap();
        }
    };
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (320, "light"), (320, "dark")] {
        browser.resize(width, 800).await;
        browser.prefer(scheme).await;
        for view in ["overview", "leases", "connections", "claims"] {
            page.view(view).await;
            checked(view, width, scheme).await;
        }
        page.view("leases").await;
        browser.click("#view-leases .does button").await;
        browser.until("document.getElementById('detail').open").await;
        checked("detail", width, scheme).await;
        browser.click("#detail-end").await;
        browser.until("document.getElementById('confirm').open").await;
        checked("confirm", width, scheme).await;
        browser.press(ESCAPE).await;
        browser.until("!document.getElementById('confirm').open").await;
    }
    browser.click("#log-out").await;
    checked("log-in", 320, "dark").await;
    page.ends_well(&[]).await;
}
