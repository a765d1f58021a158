# One repository in any of three clouds: buckets, identities, the scheduled job, and the configuration that goes with them.

locals {
  roles = ["writer", "pruner", "reader"]
  with  = { aws = var.aws != null, gcp = var.gcp != null, azure = var.azure != null }
  names = [for name in ["aws", "gcp", "azure"] : name if local.with[name]]
  # Where the scheduled job runs, if it does.
  places = [for name, schedule in { aws = var.schedule_aws != null, gcp = var.schedule_gcp != null, azure = var.schedule_azure != null } : name if schedule]
  place  = length(local.places) == 1 ? local.places[0] : ""
  # Whoever logs in by tokens has one file for each store: the job beside its configuration or in a folder of its own.
  by_tokens = local.place != "" || var.github != null || length(var.federation) > 0
  folder    = { aws = "/run/holdfast/tokens", azure = "/tokens" }
  token_files = { for name in ["aws", "gcp", "azure"] : name =>
    !local.by_tokens || name == local.place || local.place == "gcp" ? null : "${lookup(local.folder, local.place, "tokens")}/${name}"
  }
  # At Google they are not in files: the job asks the metadata server whenever it needs one.
  token_from = local.place == "gcp" ? "google-metadata-server" : null
  audiences = {
    aws   = local.place == "azure" ? try(coalesce(var.azure.token_application), "") : "sts.amazonaws.com"
    gcp   = local.place == "azure" ? try(coalesce(var.azure.token_application), "") : "holdfast-${var.name}"
    azure = "api://AzureADTokenExchange"
  }
  # Both forms of GitHub's subjects: with ids, and without, for repositories from before July 2026.
  github = var.github == null ? {} : { github = {
    issuer = "https://token.actions.githubusercontent.com"
    subjects = [
      "repo:${var.github.owner}@${var.github.owner_id}/${var.github.repository}@${var.github.repository_id}:environment:${var.github.environment}",
      "repo:${var.github.owner}/${var.github.repository}:environment:${var.github.environment}",
    ]
    role      = var.github.role
    condition = "assertion.repository_owner_id == '${var.github.owner_id}' && assertion.repository_id == '${var.github.repository_id}'"
  } }
  others = { for name, one in var.federation : name => merge(one, { condition = null }) }
  # The job's own tokens: who they are made out by, and in whose name.
  job_issuer = {
    aws   = try(coalesce(var.aws.token_issuer), "https://token-issuer.missing")
    gcp   = "https://accounts.google.com"
    azure = try("https://sts.windows.net/${var.azure.tenant_id}/", "https://token-issuer.missing")
  }
  job_subjects = {
    aws   = local.place == "aws" ? { for role in local.roles : role => "arn:aws:iam::${var.aws.account_id}:role/${var.name}-${role}" } : {}
    gcp   = local.place == "gcp" && local.with.gcp ? module.gcp[0].subjects : {}
    azure = local.place == "azure" && local.with.azure ? module.azure[0].subjects : {}
  }
  # Which trusted party the job is to each store but the one beside it.
  job = contains(local.names, local.place) ? { for role in ["writer", "pruner"] : "job-${role}" => {
    issuer    = local.job_issuer[local.place]
    subjects  = [local.job_subjects[local.place][role]]
    role      = role
    condition = null
  } } : {}
  trusted = merge(local.github, local.others)
  # Which trusted party each role of the configuration is.
  login = local.place != "" ? tomap({ writer = "job-writer", pruner = "job-pruner" }) : merge(
    { for role, names in { for name, one in var.federation : one.role => name... } : role => names[0] },
    var.github == null ? {} : { (var.github.role) = "github" },
  )
  stores = { for role in local.roles : role => merge(
    local.with.aws ? { aws = module.aws[0].stores[role] } : {},
    local.with.gcp ? { gcp = module.gcp[0].stores[role] } : {},
    local.with.azure ? { azure = module.azure[0].stores[role] } : {},
  ) }
  token_audiences = { for name, audience in local.audiences : name => audience if local.with[name] && name != local.place }
  # One by one: a whole module would wait for the job that needs this.
  files = { writer = module.config["writer"].files, pruner = module.config["pruner"].files }
}

module "aws" {
  source             = "./modules/aws"
  count              = local.with.aws ? 1 : 0
  name               = var.name
  prefix             = var.prefix
  account_id         = var.aws.account_id
  region             = var.aws.region
  bucket             = var.aws.bucket
  create_bucket      = var.aws.create_bucket
  create_kms_key     = var.aws.create_kms_key
  kms_key_arn        = var.aws.kms_key_arn
  object_lock        = var.aws.object_lock
  old_versions_days  = var.old_versions_days
  oidc_provider_arns = var.aws.oidc_provider_arns
  federation = { for name, one in merge(local.trusted, contains(["gcp", "azure"], local.place) ? local.job : {}) : name => merge(one, {
    audience = startswith(name, "job-") ? local.audiences.aws : "sts.amazonaws.com"
  }) }
  token_file      = local.token_files.aws
  token_from      = local.token_from
  principals      = var.aws.principals
  pods            = var.aws.pods
  token_audiences = local.place == "aws" ? local.token_audiences : {}
  job             = var.schedule_aws
  config          = local.files
  tags            = var.tags
}

module "gcp" {
  source            = "./modules/gcp"
  count             = local.with.gcp ? 1 : 0
  name              = var.name
  prefix            = var.prefix
  project           = var.gcp.project
  location          = var.gcp.location
  bucket            = var.gcp.bucket
  create_bucket     = var.gcp.create_bucket
  create_kms_key    = var.gcp.create_kms_key
  kms_key           = var.gcp.kms_key
  undo              = var.gcp.undo
  retention_days    = var.gcp.retention_days
  retention_locked  = var.gcp.retention_locked
  old_versions_days = var.old_versions_days
  federation        = { for name, one in merge(local.trusted, contains(["aws", "azure"], local.place) ? local.job : {}) : name => merge(one, { audience = startswith(name, "job-") ? local.audiences.gcp : "holdfast-${var.name}" }) }
  token_file        = local.token_files.gcp
  login             = local.login
  principals        = var.gcp.principals

  kubernetes_service_accounts = var.gcp.kubernetes_service_accounts
  job                         = var.schedule_gcp
  config                      = local.files
  labels                      = var.tags
}

module "azure" {
  source              = "./modules/azure"
  count               = local.with.azure ? 1 : 0
  name                = var.name
  prefix              = var.prefix
  tenant_id           = var.azure.tenant_id
  subscription_id     = var.azure.subscription_id
  resource_group      = var.azure.resource_group
  location            = var.azure.location
  account             = var.azure.account
  container           = var.azure.container
  create_account      = var.azure.create_account
  replication         = var.azure.replication
  kms_key_id          = var.azure.kms_key_id
  kms_identity_id     = var.azure.kms_identity_id
  immutability_days   = var.azure.immutability_days
  immutability_locked = var.azure.immutability_locked
  old_versions_days   = var.old_versions_days
  federation          = { for name, one in merge(local.trusted, contains(["aws", "gcp"], local.place) ? local.job : {}) : name => { issuer = one.issuer, subjects = one.subjects, role = one.role } }
  token_file          = local.token_files.azure
  token_from          = local.token_from
  principals          = var.azure.principals
  managed_identity    = local.place == "azure"
  token_audiences     = local.place == "azure" ? local.token_audiences : {}
  job                 = var.schedule_azure
  config              = local.files
  tags                = var.tags
}

module "config" {
  source        = "./modules/config"
  for_each      = toset(local.roles)
  stores        = local.stores[each.value]
  write_quorum  = var.write_quorum
  prefer        = var.prefer
  host          = var.host
  jobs          = var.jobs
  watch         = var.watch
  retention     = var.retention
  verify_within = var.verify_within
}

# What no single variable can tell is wrong.
resource "terraform_data" "sound" {
  lifecycle {
    precondition {
      condition     = length(local.names) > 0
      error_message = "Name at least one of aws, gcp and azure: a repository lies somewhere."
    }
    precondition {
      condition     = length(local.places) <= 1
      error_message = "One scheduled job writes to all stores: set one of schedule_aws, schedule_gcp and schedule_azure."
    }
    precondition {
      condition     = local.place == "" || length(var.jobs) > 0
      error_message = "A scheduled job needs something to back up: name it in jobs."
    }
    precondition {
      condition     = local.place == "" || contains(local.names, local.place)
      error_message = "The scheduled job runs in a cloud that has a store: its identity comes from there."
    }
    precondition {
      condition     = local.place != "aws" || length(local.names) == 1 || try(var.aws.token_issuer != null, false)
      error_message = "The job at AWS shows other clouds a token: turn on outbound identity federation in the account, and set aws.token_issuer to the issuer that it names."
    }
    precondition {
      condition     = local.place != "azure" || length(local.names) == 1 || try(var.azure.token_application != null, false)
      error_message = "The job at Azure shows other clouds a token: register an application for it, and set azure.token_application to its id URI."
    }
    precondition {
      condition     = local.place == "" || var.github == null
      error_message = "A configuration logs in one way: either a scheduled job or a workflow of GitHub. Use federation for a second party with a configuration of its own."
    }
  }
}
