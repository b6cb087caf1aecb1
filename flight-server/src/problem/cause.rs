//! What went wrong below, as a problem: one exhaustive match for each kind of failure, and no other anywhere.

use catalog::guard::Denial;

use super::{Problem, Slug};

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let slug = match &denial {
            Denial::MissingTenant => Slug::MissingTenant,
            Denial::InvalidTenantFormat => Slug::InvalidTenantFormat,
            Denial::TenantMismatch => Slug::TenantMismatch,
            Denial::UnknownTenant => Slug::UnknownTenant,
            Denial::InvalidToken => Slug::InvalidToken,
            Denial::Forbidden { .. } => Slug::Forbidden,
            Denial::CrossTenantQuery => Slug::CrossTenantQuery,
            Denial::ResidencyConflict => Slug::ResidencyConflict,
            Denial::PolicyVersionStale => Slug::PolicyVersionStale,
            Denial::PolicySignatureInvalid => Slug::PolicySignatureInvalid,
            Denial::PolicyInvalid(_) => Slug::PolicyInvalid,
            Denial::InvalidStream => Slug::InvalidRecord,
            Denial::NotFound => Slug::NotFound,
            Denial::PreconditionFailed => Slug::PreconditionFailed,
            Denial::KeyUnavailable => Slug::KeyUnavailable,
            Denial::EvidenceUnavailable => Slug::EvidenceUnavailable,
            Denial::Unavailable => Slug::Unavailable,
        };
        let problem = Self::new(slug, denial.to_string());
        match denial {
            Denial::Forbidden { needs } => problem.with("needs", needs),
            Denial::PolicyInvalid(reasons) => problem.with("reasons", reasons),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_denial() -> Vec<Denial> {
        vec![
            Denial::MissingTenant,
            Denial::InvalidTenantFormat,
            Denial::TenantMismatch,
            Denial::UnknownTenant,
            Denial::InvalidToken,
            Denial::Forbidden { needs: "a role" },
            Denial::CrossTenantQuery,
            Denial::ResidencyConflict,
            Denial::PolicyVersionStale,
            Denial::PolicySignatureInvalid,
            Denial::PolicyInvalid(vec!["one".to_owned(), "two".to_owned()]),
            Denial::InvalidStream,
            Denial::NotFound,
            Denial::PreconditionFailed,
            Denial::KeyUnavailable,
            Denial::EvidenceUnavailable,
            Denial::Unavailable,
        ]
    }

    #[test]
    fn a_denial_and_its_problem_have_one_name() {
        for denial in every_denial() {
            let name = denial.slug();
            assert_eq!(Problem::from(denial).slug().as_str(), name);
        }
    }

    #[test]
    fn what_is_needed_and_every_reason_are_members() {
        let json = Problem::from(Denial::Forbidden { needs: "a role" }).to_json();
        assert_eq!(json["needs"], "a role");
        let reasons = vec!["one".to_owned(), "two".to_owned()];
        let json = Problem::from(Denial::PolicyInvalid(reasons)).to_json();
        assert_eq!(json["reasons"].as_array().unwrap().len(), 2);
    }
}
