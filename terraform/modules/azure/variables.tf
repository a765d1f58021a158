variable "name" {
  description = "What the names of identities, roles and jobs begin with."
  type        = string
  default     = "holdfast"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,19}$", var.name))
    error_message = "A name has 3 to 20 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "tenant_id" {
  description = "Id of the directory (tenant)."
  type        = string
}

variable "subscription_id" {
  description = "Id of the subscription."
  type        = string
}

variable "resource_group" {
  description = "Name of the resource group that everything belongs to. It must exist."
  type        = string
}

variable "location" {
  description = "Region of what is made."
  type        = string
}

variable "account" {
  description = "Name of the storage account."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9]{3,24}$", var.account))
    error_message = "A storage account is named by 3 to 24 lower-case letters and digits."
  }
}

variable "container" {
  description = "Name of the container."
  type        = string
  default     = "holdfast"
}

variable "create_account" {
  description = "Whether account and container are made here. Existing ones keep their settings: compare them with main.tf."
  type        = bool
  default     = true
}

variable "replication" {
  description = "How Azure keeps copies: LRS, ZRS, GRS and so on."
  type        = string
  default     = "ZRS"
}

variable "prefix" {
  description = "Folder of the repository in the container, without slashes at its ends; empty for the whole container."
  type        = string
  default     = ""
  validation {
    condition     = var.prefix == "" || can(regex("^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$", var.prefix))
    error_message = "A prefix consists of lower-case segments joined by slashes, without one at either end."
  }
}

variable "kms_key_id" {
  description = "Id of a key in a Key Vault that encrypts the account once more; kms_identity_id must be allowed to use it. Null: Azure's own keys. All in the account is sealed already."
  type        = string
  default     = null
}

variable "kms_identity_id" {
  description = "Id of the user-assigned identity by which the account reaches the key."
  type        = string
  default     = null
}

variable "immutability_days" {
  description = "How long every new object can be neither changed nor removed, by anyone. 0: not at all, versions protect. Only a new account can have it."
  type        = number
  default     = 0
}

variable "immutability_locked" {
  description = "Whether the time can never be shortened again. There is no way back."
  type        = bool
  default     = false
}

variable "old_versions_days" {
  description = "How long a deleted object is kept for a copy of an earlier state, which costs its storage."
  type        = number
  default     = 30
  validation {
    condition     = var.old_versions_days >= 1 && var.old_versions_days <= 365
    error_message = "Azure keeps what was deleted for 1 to 365 days."
  }
}

variable "federation" {
  description = "Who may act as an identity by a token of OIDC, without a key: issuer (https), exact subjects, and the role (writer, pruner, reader)."
  type = map(object({
    issuer   = string
    subjects = list(string)
    role     = optional(string, "writer")
    audience = optional(string, "api://AzureADTokenExchange")
  }))
  default = {}
  validation {
    condition     = alltrue([for one in values(var.federation) : contains(["writer", "pruner", "reader"], one.role) && startswith(one.issuer, "https://") && length(one.subjects) > 0])
    error_message = "Each needs an https issuer, at least one subject, and one of the roles writer, pruner and reader."
  }
}

variable "token_file" {
  description = "File with the token by which the configuration logs in. Null: as found in the surroundings."
  type        = string
  default     = null
}

variable "token_from" {
  description = "Who gives that token instead of a file, as the configuration calls it: google-metadata-server, where the job runs at Google. Its audience is the one of federation, api://AzureADTokenExchange. Null: nobody."
  type        = string
  default     = null
  validation {
    condition     = var.token_from == null || var.token_from == "google-metadata-server"
    error_message = "Tokens that are in no file come from google-metadata-server."
  }
  validation {
    condition     = var.token_from == null || var.token_file == null
    error_message = "The configuration logs in by one token: either token_file or token_from."
  }
}

variable "managed_identity" {
  description = "Whether the configuration logs in as the managed identity that is made here, which the job has, where there is no token_file."
  type        = bool
  default     = false
}

variable "principals" {
  description = "Who else gets a role's rights, by role (writer, pruner, reader): object ids of people, groups and identities."
  type        = map(list(string))
  default     = {}
  validation {
    condition     = alltrue([for role in keys(var.principals) : contains(["writer", "pruner", "reader"], role)])
    error_message = "The roles are writer, pruner and reader."
  }
}

variable "config" {
  description = "By role (writer, pruner): the files of its configuration, as modules/config tells them, for the job."
  type        = map(map(string))
  default     = {}
}

variable "job" {
  description = "The scheduled job: what runs, and when. Null: none here. The times are UTC; password_secret is the URL of a secret in a Key Vault."
  type = object({
    image              = string
    password_secret    = string
    environment_id     = string
    run_schedule       = optional(string, "17 2 * * *")
    lifecycle_schedule = optional(string, "47 4 * * 0")
    cpu                = optional(number, 1)
    memory             = optional(string, "2Gi")
    timeout_seconds    = optional(number, 79200)
    tools_image        = optional(string, "curlimages/curl:latest")
    volumes = optional(map(object({
      storage_name = string
      path         = string
    })), {})
  })
  default = null
  validation {
    condition     = try(var.job.timeout_seconds <= 82800, true)
    error_message = "The tokens for other clouds are fetched once and last a day: a job ends within 82800 seconds."
  }
}

variable "token_audiences" {
  description = "Tokens that the job fetches for other clouds: file name to the application (its id URI) that the token is for."
  type        = map(string)
  default     = {}
}

variable "tags" {
  description = "Tags of everything that can have some."
  type        = map(string)
  default     = {}
}
