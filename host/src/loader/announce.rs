//! Methods of plugins that are not loaded yet: the registry lists them, and their first call loads
//! the plugin.

use super::search::Candidate;
use crate::rpc::{Owner, Registry};
use drivebay_spec_jsonrpc::{Method, Role, State as RpcState};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The methods that this loader has announced to the registry: a call of one of them loads its plugin. App thread.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    announced: RefCell<BTreeSet<Announced>>,
}

/// A method of a plugin that is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Announced {
    plugin: String,
    method: String,
    is_for_startup: bool,
}

impl Announcements {
    /// Announces the methods of these plugins, and withdraws the announced methods that none of them has any more. `plugins` contains for
    /// each name only the plugin that a load by name would choose.
    pub(super) fn update(&self, registry: &Registry, plugins: &[Candidate]) {
        let mut wanted = BTreeSet::new();
        for manifest in plugins.iter().filter_map(Candidate::usable) {
            let announced = |method: &str| Announced {
                plugin: manifest.name.clone(),
                method: method.to_owned(),
                is_for_startup: manifest.is_for_startup(method),
            };
            wanted.extend(manifest.methods().map(announced));
        }
        let mut announced = self.announced.borrow_mut();
        for gone in announced.difference(&wanted) {
            registry.unregister(&Owner::new(&gone.plugin, 0), &gone.method);
        }
        for one in &wanted {
            // An error means that another owner has registered this name and answers its calls. The conflict is reported when an operator
            // loads the plugin by name.
            let _ = registry.announce(&Owner::new(&one.plugin, 0), one.declaration());
        }
        *announced = wanted;
    }
}

impl Announced {
    /// The declaration of a method until its plugin is loaded and declares it.
    fn declaration(&self) -> Method {
        let Self { plugin, method, is_for_startup } = self;
        let state = if *is_for_startup { RpcState::Startup } else { RpcState::Runtime };
        Method {
            name: method.clone(),
            aliases: Vec::new(),
            states: vec![state],
            role: Role::Operate,
            doc: format!("Loads the plugin {plugin}, which answers it."),
            params: Vec::new(),
            result: String::new(),
            returns: None,
            errors: Vec::new(),
        }
    }
}
