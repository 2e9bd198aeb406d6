//! How a node answers the requests of peers, without a socket: `begin` and `answer`.

use std::borrow::Cow;

use super::Node;
use crate::auth::guard::Body;
use crate::cluster::change::Reach;
use crate::cluster::state::Cluster;
use crate::group::{Begun, Pending, Serve};
use crate::observe::status::is_status;
use crate::protocol::account::Requester;
use crate::protocol::dialect::Dialect;
use crate::protocol::{
    BadTarget, GroupCommand, Named, NodeCommand, Removal, Request, Response, Status, Target, Terms,
    Whom, is_ours, parse_target,
};
use crate::runtime::sync::Arc;
use crate::runtime::user_code;

type Found<'a> = (Arc<dyn Serve>, Option<Cow<'a, str>>);

/// What becomes of a request at once.
#[derive(Debug)]
pub enum Begin {
    /// The answer.
    Ready(Response),
    /// The answer takes a load.
    Pending(Pending),
}

impl From<Begun> for Begin {
    fn from(begun: Begun) -> Begin {
        match begun {
            Begun::Ready(response) => Begin::Ready(response),
            Begun::Pending(pending) => Begin::Pending(pending),
        }
    }
}

impl Node {
    /// Whether a request with this target is for the node: one of the peer protocol, or for the
    /// [`StatusPage`](crate::StatusPage), if there is one. All others are the application's.
    #[must_use]
    pub fn serves(&self, target: &str) -> bool {
        is_ours(target) || self.0.page.is_some() && is_status(target)
    }

    /// Begins to answer a request of a peer. Never blocks on a load: where one is needed, that is
    /// left to the loader threads, and the answer is pending.
    ///
    /// For engines that must not hold a thread meanwhile; all others use [`answer`](Node::answer). What
    /// is kept for all requests that wait, and for answers to several keys until they are dropped, is
    /// bounded by 256 MiB: beyond it keys are overloaded, or left to be asked for again.
    #[must_use]
    pub fn begin(&self, request: &Request<'_>) -> Begin {
        self.begin_for(request, &mut Requester::new(&self.0.account, None))
    }

    /// The same for this requester, who pays for what the answer takes, and who is noted to have proved
    /// who it is if the request does.
    pub(crate) fn begin_for(&self, request: &Request<'_>, requester: &mut Requester) -> Begin {
        let _hold = user_code::hold(); // what listens is told once it is known what to answer
        let boot = match self.admit(request, Body::Here(request.body)) {
            Ok(boot) => boot,
            Err(refusal) => return Begin::Ready(refusal),
        };
        if boot.is_some() {
            requester.prove();
        }
        let named = Named {
            // A Go peer would make nothing of it.
            request: request.terms.native.then(|| request.hash()),
            boot,
        };
        match self.begin_admitted(request, requester) {
            Begin::Ready(response) => Begin::Ready(response.naming(named)),
            Begin::Pending(pending) => Begin::Pending(pending.naming(named)),
        }
    }

    /// What a request whose body is still to come, of so many bytes, is refused with already: nothing
    /// is read or kept for one who would be refused in the end. If its head proves who asks, that is
    /// noted.
    pub(crate) fn refuse_head(
        &self,
        request: &Request<'_>,
        body_len: u64,
        requester: &mut Requester,
    ) -> Option<Response> {
        match self.admit(request, Body::Announced(body_len)) {
            Ok(Some(_)) => requester.prove(),
            Ok(None) => {}
            Err(refusal) => return Some(refusal),
        }
        None
    }

    /// Whether a request may be answered at all, which its head tells. Gives the boot id that the
    /// answer is to name, if the request proves that it comes from a peer.
    fn admit(&self, request: &Request<'_>, body: Body<'_>) -> Result<Option<u64>, Response> {
        let Cluster { gate, clock, .. } = &*self.0.cluster;
        if self.serves(request.target) {
            gate.check_sender(request, clock)?;
        }
        // No browser signs what it asks for, and for that it has nothing to send.
        if self.0.page.is_some() && is_status(request.target) {
            let is_bare = matches!(request.method, "GET" | "HEAD") && matches!(body, Body::Here(_));
            let refusal = || self.respond_wrong_method("GET");
            return is_bare.then_some(None).ok_or_else(refusal);
        }
        // First who asks: strangers are told nothing of the cluster.
        let boot = match self.guard() {
            Some(guard) => guard.check(request, body)?,
            None => None,
        };
        // A Go peer cannot say whom it means.
        let is_native = self.dialect().spoken(request.terms.native) == Dialect::Native;
        if is_native && is_ours(request.target) {
            gate.check_addressee(request, clock)?;
        }
        Ok(boot)
    }

    fn begin_admitted(&self, request: &Request<'_>, requester: &mut Requester) -> Begin {
        if let Some(page) = &self.0.page {
            let shown = page.answer(request, &self.0.cluster, &self.0.registry, &*self.0);
            if let Some(response) = shown {
                return Begin::Ready(response);
            }
        }
        let spoken = self.dialect().spoken(request.terms.native);
        match self.find(request, spoken, requester) {
            Err(response) => Begin::Ready(response),
            Ok((group, None)) => match request.method {
                "POST" => group
                    .begin_command(request.body, &request.terms, requester)
                    .into(),
                _ => Begin::Ready(self.respond_wrong_method("POST")),
            },
            // Go runs every method as a GET and answers 200. Who wanted to remove something would
            // take that for done, so here such a request is refused.
            Ok(_) if spoken == Dialect::Golang && request.method != "GET" => {
                Begin::Ready(self.respond_wrong_method("GET"))
            }
            Ok((group, Some(key))) => match request.method {
                "GET" => group.begin_get(&key, &request.terms, requester).into(),
                "PUT" => {
                    Begin::Ready(group.answer_put(&key, request.body, &request.terms, requester))
                }
                "DELETE" => Begin::Ready(group.answer_delete(&key, &request.terms)),
                _ => Begin::Ready(self.respond_wrong_method("GET, PUT, DELETE")),
            },
        }
    }

    /// Answers a request of a peer: blocks until the value is here, or until it is time to say that
    /// it is still loading.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>) -> Response {
        match self.begin(request) {
            Begin::Ready(response) => response,
            Begin::Pending(pending) => pending.wait(),
        }
    }

    /// The group and the key that a request is about, or the answer that there are none.
    fn find<'a>(
        &self,
        request: &Request<'a>,
        spoken: Dialect,
        requester: &Requester,
    ) -> Result<Found<'a>, Response> {
        let (group, key) = match parse_target(request.target, spoken) {
            Ok(Target::Key(group, key)) => (group, Some(key)),
            Ok(Target::Group(_)) if spoken == Dialect::Golang => {
                return Err(self.respond(Status::BadRequest, "bad request"));
            }
            Ok(Target::Group(group)) => (group, None),
            Ok(Target::Node) => return Err(self.answer_node(request, requester)),
            Err(BadTarget::Elsewhere) => {
                return Err(self.respond(Status::Elsewhere, "not a path of the peer protocol"));
            }
            Err(BadTarget::TooLong) => {
                return Err(self.respond(Status::KeyTooLong, "the key is too long"));
            }
            Err(BadTarget::Malformed(reason)) => {
                return Err(self.respond(Status::BadRequest, reason));
            }
        };
        match self.0.registry.find(&group) {
            Some(found) => Ok((found, key)),
            None => {
                if spoken == Dialect::Native && !request.terms.copies {
                    self.note_removed(&group, key.as_deref(), request);
                }
                let text = format!("no such group: {group}");
                Err(self.respond(Status::NoSuchGroup, &text))
            }
        }
    }

    /// Notes what is removed from a group that is not here: it may be made before it takes over what
    /// a former owner has still to remove.
    fn note_removed(&self, group: &str, key: Option<&str>, request: &Request<'_>) {
        let cluster = &self.0.cluster;
        let told = cluster.change_info(&request.terms);
        let note = |key| {
            let now = cluster.clock.now();
            let _ = cluster.journal.add_tombstone(group, key, told, now); // there is nothing to carry out
        };
        match (request.method, key) {
            ("PUT" | "DELETE", Some(key)) => note(Some(key)),
            ("POST", None) => match GroupCommand::decode(request.body) {
                Ok(GroupCommand::Remove(keys)) => keys.iter().for_each(|key| note(Some(key))),
                Ok(GroupCommand::Clear) => note(None),
                _ => {}
            },
            _ => {}
        }
    }

    /// What is asked of the node itself: whether it is there, or a node command.
    fn answer_node(&self, request: &Request<'_>, requester: &Requester) -> Response {
        match request.method {
            "POST" => self.read_node_command(request, requester),
            "GET" if self.0.cluster.is_leaving() => {
                self.respond(Status::Leaving, "this node leaves the ring")
            }
            "GET" => self.respond(Status::Ok, "alive"),
            _ => self.respond_wrong_method("GET, POST"),
        }
    }

    fn read_node_command(&self, request: &Request<'_>, requester: &Requester) -> Response {
        // Names and keys are copied out of the body.
        let Some(_copying) = requester.charge_copy(request.body.len()) else {
            return self.respond(Status::Overloaded, "too much is under way: ask again later");
        };
        match NodeCommand::decode(request.body) {
            Ok(command) => self.run(command, &request.terms),
            Err(error) => self.respond(error.status(), error.0),
        }
    }

    fn run(&self, command: NodeCommand, terms: &Terms) -> Response {
        let cluster = &self.0.cluster;
        match command {
            NodeCommand::Departure(id) => cluster.departed(&id),
            NodeCommand::Clear if terms.copies => cluster.clear_all(Reach::Copies),
            NodeCommand::Clear => {
                cluster.journal.forget_all(terms.stamp, cluster.clock.now());
                cluster.clear_all(Reach::All);
            }
            NodeCommand::Deliver { to, removals } => {
                if !cluster.take_over_removals(&to, &removals) {
                    return self.respond(Status::BadRequest, "this node knows no such peer");
                }
                if matches!(to, Whom::One(_)) {
                    self.forget_copies(&removals);
                }
                // Asked last: it may have handed over already what it had to tell.
                if cluster.is_leaving() {
                    return self.respond(Status::Leaving, "this node leaves the ring");
                }
            }
            NodeCommand::Marks => {
                let ring = cluster.members().fingerprint();
                return Response::bytes(ring, cluster.encode_tombstones());
            }
        }
        self.respond(Status::Ok, "noted")
    }

    /// Lets copies go of what another node has not been told to remove: they may come from there.
    fn forget_copies(&self, removals: &[Removal]) {
        for removal in removals {
            match &removal.group {
                None => self.0.cluster.clear_all(Reach::Copies),
                Some(group) => {
                    let found = self.0.registry.find(group);
                    found.inspect(|group| group.forget_copies(removal.key.as_deref()));
                }
            }
        }
    }
}
