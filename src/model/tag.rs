//! Tags.

use super::Ref;

resource! {
    Tag as "tag" { host: Ref, parent: Ref, template: Ref, user: Ref, vm: Ref }
}
collection!(Tags as "tags" of tag: Tag);
