//! What is in force now of the configuration, for everybody above the shards: settings, tokens, routes, and the number
//! of the rules that the shards were given. Owns the one place where a reload puts its successor; whoever reads takes
//! the whole of one state. Refuses to decide what may change.

use std::sync::{Arc, PoisonError, RwLock};

use backend::joint::Routes;
use config::Settings;

use crate::admin::RouteInfo;
use crate::admin::auth::Tokens;
use crate::bus;

/// One state of the configuration.
pub(crate) struct InForce {
    /// Counts up from 1 with each reload.
    pub(crate) number: u32,
    /// Everything that was configured.
    pub(crate) settings: Settings,
    /// Who may call the api and admin roles.
    pub(crate) tokens: Tokens,
    /// Routes, by number.
    pub(crate) routes: Vec<RouteInfo>,
}

impl InForce {
    /// The state that these settings make, with the tokens as their files are now.
    ///
    /// # Errors
    /// A file of tokens, and what is wrong with it.
    pub(crate) fn new(number: u32, settings: Settings) -> Result<Self, String> {
        let tokens = Tokens::load(settings.api.tokens_file.as_deref(), settings.admin.token_file.as_deref())?;
        let shown =
            |route: &config::Route| RouteInfo { name: route.name.to_string(), path: route.path.to_string() };
        let routes = settings.routes.iter().map(shown).collect();
        Ok(Self { number, settings, tokens, routes })
    }
}

/// Where the state is found.
pub(crate) struct Live {
    state: RwLock<Arc<InForce>>,
    bus_routes: Arc<Routes>,
}

impl Live {
    pub(crate) fn new(first: InForce) -> Self {
        let bus_routes = Arc::<Routes>::default();
        bus_routes.set(bus::routes(&first.settings));
        Self { state: RwLock::new(Arc::new(first)), bus_routes }
    }

    /// The state of this moment. Nobody holds the lock for longer than it takes to copy a pointer.
    pub(crate) fn now(&self) -> Arc<InForce> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the bus is told of routes.
    pub(crate) const fn bus_routes(&self) -> &Arc<Routes> {
        &self.bus_routes
    }

    /// Puts another in its place.
    pub(crate) fn replace(&self, next: InForce) {
        self.bus_routes.set(bus::routes(&next.settings));
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}
