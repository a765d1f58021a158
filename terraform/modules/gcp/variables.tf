variable "name" {
  description = "What the names of accounts, roles and jobs begin with."
  type        = string
  default     = "holdfast"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,19}$", var.name))
    error_message = "A name has 3 to 20 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "project" {
  description = "Id of the project that bucket, accounts and jobs belong to."
  type        = string
}

variable "location" {
  description = "Where the bucket lies: a region, or a name of several."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
}

variable "create_bucket" {
  description = "Whether the bucket is made here. An existing one keeps its settings (compare them with main.tf); it needs uniform access."
  type        = bool
  default     = true
}

variable "prefix" {
  description = "Folder of the repository in the bucket, without slashes at its ends; empty for the whole bucket."
  type        = string
  default     = ""
  validation {
    condition     = var.prefix == "" || can(regex("^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$", var.prefix))
    error_message = "A prefix consists of lower-case segments joined by slashes, without one at either end."
  }
}

variable "create_kms_key" {
  description = "Whether a key of one's own encrypts the bucket once more. All in it is sealed already; this gives a second switch."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "Resource name of an existing key that encrypts the bucket. Cloud Storage's own account must be allowed to use it."
  type        = string
  default     = null
}

variable "undo" {
  description = "What protects deleted objects: `versions` keeps old versions for old_versions_days; `retention` admits no removal within retention_days, by anyone, and keeps no versions (Cloud Storage has one or the other)."
  type        = string
  default     = "versions"
  validation {
    condition     = contains(["versions", "retention"], var.undo)
    error_message = "Either versions or retention."
  }
}

variable "old_versions_days" {
  description = "How long an object stays after it was deleted: the time in which the state of a day can be copied from old versions, which costs their storage."
  type        = number
  default     = 30
  validation {
    condition     = var.old_versions_days >= 1
    error_message = "At least one day."
  }
}

variable "retention_days" {
  description = "With undo = retention: how old an object must be before anyone can remove it."
  type        = number
  default     = 30
}

variable "retention_locked" {
  description = "Whether the retention can never be shortened again, not even by the owner of the project. There is no way back."
  type        = bool
  default     = false
}

variable "federation" {
  description = "Who may act as an account by a token of OIDC, without a key: issuer (https), exact subjects, the role (writer, pruner, reader), the audience if it is not the pool's, and a further condition on the token."
  type = map(object({
    issuer    = string
    subjects  = list(string)
    role      = optional(string, "writer")
    audience  = optional(string)
    condition = optional(string)
  }))
  default = {}
  validation {
    condition     = alltrue([for one in values(var.federation) : contains(["writer", "pruner", "reader"], one.role) && startswith(one.issuer, "https://") && length(one.subjects) > 0])
    error_message = "Each needs an https issuer, at least one subject, and one of the roles writer, pruner and reader."
  }
  validation {
    condition     = alltrue([for name in keys(var.federation) : can(regex("^[a-z][a-z0-9-]{3,31}$", name)) && !startswith(name, "gcp-")])
    error_message = "Google names each of them by 4 to 32 lower-case letters, digits and hyphens, not beginning with gcp-."
  }
}

variable "token_file" {
  description = "File with the token by which the configuration logs in. Null: as found in the surroundings (the account of the job)."
  type        = string
  default     = null
}

variable "login" {
  description = "By role: which of `federation` the token in token_file belongs to."
  type        = map(string)
  default     = {}
}

variable "principals" {
  description = "Who else may act as a role's service account, by role (writer, pruner, reader): members as IAM spells them (user:..., group:..., serviceAccount:...)."
  type        = map(list(string))
  default     = {}
  validation {
    condition     = alltrue([for role in keys(var.principals) : contains(["writer", "pruner", "reader"], role)])
    error_message = "The roles are writer, pruner and reader."
  }
  validation {
    condition     = alltrue([for member in flatten(values(var.principals)) : can(regex("^(user|group|serviceAccount|principal):", member))])
    error_message = "Each is a user, a group, a service account or a principal: allUsers would let in whoever comes."
  }
}

variable "kubernetes_service_accounts" {
  description = "Service accounts of GKE clusters of the project that are linked to a role's, by role: NAMESPACE/NAME."
  type        = map(list(string))
  default     = {}
  validation {
    condition     = alltrue([for role in keys(var.kubernetes_service_accounts) : contains(["writer", "pruner", "reader"], role)])
    error_message = "The roles are writer, pruner and reader."
  }
}

variable "config" {
  description = "By role (writer, pruner): the files of its configuration, as modules/config tells them, for the job."
  type        = map(map(string))
  default     = {}
}

variable "job" {
  description = "The scheduled job: what runs, and when. Null: none here."
  type = object({
    image              = string
    password_secret    = string
    region             = string
    run_schedule       = optional(string, "17 2 * * *")
    lifecycle_schedule = optional(string, "47 4 * * 0")
    timezone           = optional(string, "Etc/UTC")
    enabled            = optional(bool, true)
    cpu                = optional(string, "1")
    memory             = optional(string, "2Gi")
    timeout            = optional(string, "86400s")
    volumes = optional(map(object({
      server = string
      export = string
      path   = string
    })), {})
    network    = optional(string)
    subnetwork = optional(string)
  })
  default = null
}

variable "labels" {
  description = "Labels of everything that can have some."
  type        = map(string)
  default     = {}
}
