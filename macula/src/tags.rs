//! What a node says about itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use macula_membership::{Membership, TAGS_BYTES_MAX, TAGS_MAX, Tags};
use macula_transport::Transport;

use crate::Node;
use crate::config::{ConfigError, Raw, Tag};
use crate::core::Core;

/// The key that holds them.
const KEY: &str = "node.tags";

/// Most tags: as many as membership carries.
pub(crate) const COUNT_MAX: usize = TAGS_MAX;

/// Whether no name stands twice.
pub(crate) fn are_distinct(tags: &[Tag]) -> bool {
    tags.iter().map(|tag| &tag.name).collect::<BTreeSet<_>>().len() == tags.len()
}

/// Whether membership can carry them.
pub(crate) fn fit(tags: &[Tag]) -> bool {
    tags.iter().map(|tag| tag.name.len() + tag.value.len()).sum::<usize>() <= TAGS_BYTES_MAX
}

/// Its tags: small words such as a zone or a role, which every member sees beside its own.
impl Node {
    /// Its tags.
    pub fn tags(&self) -> Arc<Tags> {
        self.inner.core.swim.local().tags
    }

    /// Replaces its tags; the other members see the new ones within a few rounds of gossip. The same as setting
    /// `node.tags`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the rule that they break: at most 32 tags, with at most 512 bytes of names and values
    /// in all, of the characters that [`Tag`] allows. Then nothing has changed.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let node = macula::Node::builder().listen("127.0.0.1:0").tag("zone", "eu-west").start().await?;
    /// assert_eq!(node.tags()["zone"], "eu-west");
    /// node.set_tags([("zone", "eu-north"), ("role", "edge")])?;
    /// assert_eq!(node.tags().len(), 2);
    /// assert!(node.set_tags([("zone", "x".repeat(600))]).is_err());
    /// # node.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_tags<N, V>(&self, tags: impl IntoIterator<Item = (N, V)>) -> Result<(), ConfigError>
    where
        N: Into<String>,
        V: Into<String>,
    {
        let tags: Tags = tags.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.set_config(KEY, written(&tags)).map(drop)
    }

    /// Removes the tags of these names, then sets those, and leaves the others as they are. Concurrent changes do not
    /// undo each other.
    ///
    /// # Errors
    /// As for [`set_tags`](Self::set_tags).
    pub fn change_tags(&self, set: &Tags, remove: &[String]) -> Result<(), ConfigError> {
        let changed = self.change_config(KEY, |config| {
            let mut tags = read(&config.node.tags);
            tags.retain(|name, _| !remove.contains(name));
            tags.extend(set.clone());
            Raw::List(written(&tags))
        });
        changed.map(drop)
    }
}

/// Tells membership the configured tags.
pub(crate) fn apply<T: Transport>(core: &Core<T>, tags: &[Tag]) {
    core.swim
        .set_tags(read(tags))
        .expect("the configuration has the limits of membership: a test compares them");
}

fn read(tags: &[Tag]) -> Tags {
    tags.iter().map(|tag| (tag.name.clone(), tag.value.clone())).collect()
}

fn written(tags: &Tags) -> Vec<String> {
    tags.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn set(tags: &[String]) -> Result<usize, String> {
        let mut config = Config::default();
        let set = config.set(super::KEY, tags.to_vec()).map_err(|error| error.to_string());
        set.map(|_| config.node.tags.len())
    }

    #[test]
    fn the_limits_are_those_of_membership() {
        let of_bytes = |bytes: usize| vec![format!("k={}", "v".repeat(bytes - 1))];
        assert_eq!(set(&of_bytes(512)), Ok(1));
        let refusal = set(&of_bytes(513)).unwrap_err();
        assert!(refusal.ends_with("names and values must have at most 512 bytes in all"), "{refusal}");
        let many = |count: usize| (0..count).map(|n| format!("t{n}=v")).collect::<Vec<_>>();
        assert_eq!(set(&many(32)), Ok(32));
        let refusal = set(&many(33)).unwrap_err();
        assert!(refusal.contains("a list of 0 to 32") && refusal.ends_with("there are 33"), "{refusal}");
    }

    #[test]
    fn a_name_stands_once() {
        let refusal = set(&["zone=a".into(), "role=b".into(), "zone=c".into()]).unwrap_err();
        assert!(refusal.ends_with("no name may stand twice"), "{refusal}");
    }
}
