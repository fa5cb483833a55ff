//! Where the objects come from: the file or the operator.

use crate::api::{Origin, ServerKey, ServerSpec, ServiceKey};
use crate::config::Rules;

use super::Model;

impl Model {
    /// Says where a service, or one of its servers, counts as coming from.
    pub fn set_origin(
        &mut self,
        service_key: ServiceKey,
        server: Option<ServerKey>,
        origin: Origin,
    ) {
        let Some(service) = self.services.get_mut(&service_key) else {
            return;
        };
        match server {
            None => service.origin = origin,
            Some(key) => {
                let servers = service.servers.iter_mut();
                for server in servers.filter(|s| s.key == key && !s.is_sorry) {
                    server.origin = origin;
                }
            }
        }
    }

    /// What runs was written to the file as these rules: each object that is in them as it runs
    /// now comes from the file. What changed since the file was written does not.
    pub fn adopt(&mut self, saved: &Rules) {
        for (rule, mark) in &mut self.marks {
            mark.origin = match saved.marks.get(rule) {
                Some(file) if *file == mark.mark => Origin::File,
                Some(_) => Origin::FileChanged,
                None => Origin::Live,
            };
        }
        for service in self.services.values_mut() {
            let in_file = saved.services.get(&service.key);
            service.origin = match in_file {
                Some(file) if file.spec == service.spec => Origin::File,
                Some(_) => Origin::FileChanged,
                None => Origin::Live,
            };
            for server in service.servers.iter_mut().filter(|s| !s.is_sorry) {
                let spec = ServerSpec {
                    weight: server.weights.configured,
                    ..server.spec.clone()
                };
                let file = in_file.and_then(|f| f.servers.iter().find(|s| s.key == server.key));
                server.origin = match file {
                    Some(f) if f.spec == spec && f.state == server.weights.state => Origin::File,
                    Some(_) => Origin::FileChanged,
                    None => Origin::Live,
                };
            }
        }
    }
}
