//! XMP (ISO 16684-1): the one property that says how a picture looks.

use quick_xml::{
    NsReader,
    events::{BytesStart, Event},
    name::{Namespace, NamespaceResolver, QName, ResolveResult},
};

const RDF: Namespace<'static> = Namespace("http://www.w3.org/1999/02/22-rdf-syntax-ns#");
const TIFF: Namespace<'static> = Namespace("http://ns.adobe.com/tiff/1.0/");

/// How much of a packet is read: what a JPEG's has at most.
const MOST: usize = 64 * 1024;

/// How the picture is to be turned, 1 to 8 as in EXIF: the attribute or the element `tiff:Orientation` of what the
/// packet describes, not of what that has in it. None where it doesn't say.
pub(super) fn orientation(packet: &[u8]) -> Option<u16> {
    let packet = &packet[..packet.len().min(MOST)];
    let mut reader = NsReader::from_str(packet.utf8_chunks().next()?.valid());
    let mut depth = 0;
    // How deep the descriptions are.
    let mut described_at = None;
    loop {
        // Where it can't be read on, what has come didn't say.
        let event = reader.read_event().ok()?;
        let names = reader.resolver();
        match event {
            Event::Start(element) => {
                depth += 1;
                if names.is(RDF, "RDF", element.name()) {
                    described_at.get_or_insert(depth + 1);
                } else if described_at == Some(depth) {
                    if let Some(said) = attribute(names, &element) {
                        return Some(said);
                    }
                } else if described_at == Some(depth - 1)
                    && names.is(TIFF, "Orientation", element.name())
                {
                    return match reader.read_event().ok()? {
                        Event::Text(text) => number(&text.xml10_content()),
                        _ => None,
                    };
                }
            }
            Event::Empty(element) if described_at == Some(depth + 1) => {
                if let Some(said) = attribute(names, &element) {
                    return Some(said);
                }
            }
            Event::End(_) => depth -= 1,
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn attribute(names: &NamespaceResolver, description: &BytesStart<'_>) -> Option<u16> {
    let mut attributes = description.attributes();
    let found =
        attributes
            .with_checks(false)
            .flatten()
            .find(|it| match names.resolve_attribute(it.key) {
                (ResolveResult::Bound(namespace), name) => {
                    namespace == TIFF && name.into_inner() == "Orientation"
                }
                _ => false,
            });
    number(&found?.value)
}

fn number(text: &str) -> Option<u16> {
    let number = text.trim().parse().ok()?;
    (1..=8).contains(&number).then_some(number)
}

trait Names {
    fn is(&self, namespace: Namespace<'_>, name: &str, of: QName<'_>) -> bool;
}

impl Names for NamespaceResolver {
    fn is(&self, namespace: Namespace<'_>, name: &str, of: QName<'_>) -> bool {
        let (found, local) = self.resolve_element(of);
        found == ResolveResult::Bound(namespace) && local.into_inner() == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(description: &str) -> String {
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"{}\" xmlns:tiff=\"{}\" xmlns:t=\"{}\">\n\
             {description}</rdf:RDF></x:xmpmeta>\n<?xpacket end=\"w\"?>",
            RDF.0, TIFF.0, TIFF.0,
        )
    }

    #[test]
    fn an_orientation_is_an_attribute_or_an_element_of_what_is_described() {
        for (description, expected) in [
            ("<rdf:Description tiff:Orientation='6'/>", Some(6)),
            (
                "<rdf:Description rdf:about=''/><rdf:Description t:Orientation=\"3\"></rdf:Description>",
                Some(3),
            ),
            (
                "<rdf:Description><tiff:Make>x</tiff:Make><tiff:Orientation> 8 </tiff:Orientation></rdf:Description>",
                Some(8),
            ),
            ("<rdf:Description tiff:Orientation='9'/>", None),
            ("<rdf:Description tiff:Orientation='six'/>", None),
            (
                "<rdf:Description><tiff:Orientation/></rdf:Description>",
                None,
            ),
            (
                "<rdf:Description Orientation='6' x:Orientation='6' u:Orientation='6'/>",
                None,
            ),
            (
                "<rdf:Description><x:Orientation>6</x:Orientation></rdf:Description>",
                None,
            ),
            // Of a picture that is within this one, or was made into it.
            (
                "<rdf:Description><x:Of><rdf:Description tiff:Orientation='6'/></x:Of></rdf:Description>",
                None,
            ),
            (
                "<rdf:Description><x:Of><tiff:Orientation>6</tiff:Orientation></x:Of></rdf:Description>",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(
                orientation(packet(description).as_bytes()),
                expected,
                "{description}"
            );
        }
    }

    #[test]
    fn what_can_not_be_read_says_nothing() {
        let whole = packet("<rdf:Description tiff:Orientation='6'/>");
        let said = whole.find("/></rdf:RDF").expect("it is there") + 2;
        for length in 0..whole.len() {
            let expected = (length >= said).then_some(6);
            assert_eq!(
                orientation(&whole.as_bytes()[..length]),
                expected,
                "{length}"
            );
        }
        let bare = whole.replace(TIFF.0, "http://example.com/");
        assert_eq!(orientation(bare.as_bytes()), None);
        let deep = packet(&"<rdf:Description>".repeat(10_000));
        assert_eq!(orientation(deep.as_bytes()), None);
        let late = packet(&format!(
            "{}<rdf:Description tiff:Orientation='6'/>",
            " ".repeat(MOST)
        ));
        assert_eq!(orientation(late.as_bytes()), None);
        assert_eq!(orientation(b"\xff\xfe<\0x\0"), None);
    }
}
